"""Finds what an earlier run left under the same name, so that no run replaces a result by accident.

Also removes the unfinished files of killed runs, and refuses links that may be traps.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from danceopd_ext.errors import UserError
from danceopd_ext.files import is_link, refuse_links, remove_leftovers
from danceopd_ext.toolkits.launched import is_first_process
from danceopd_ext.toolkits.lock import holds, only_run
from danceopd_ext.toolkits.preset_record import record_path

#: after output_name: nothing, a step or an epoch, then what the file is; names of this package and of the toolkits
_STEP, _FORMS = r"(-step\d{8}|-\d{6})?", r"\.safetensors|\.ckpt|\.pt|-state"
#: names of LoRAs and states
RESULTS = re.compile(rf"{_STEP}({_FORMS})$")
#: names of previews
PICTURES = re.compile(r"-step\d{8}\.png$")
#: other files that a run writes under a temporary name first
WRITTEN = re.compile(rf"{_STEP}({_FORMS}|\.log\.jsonl|\.png|\.preset\.toml)$")
#: the folders in output_dir that a run may fill, and the key that names another folder in its place
OPTIONS = {"cache": "text_encoder_cache_dir", "logs": "logging_dir"}


@contextmanager
def sole_writer(folder: Path, name: str, overwrite: bool = False, resume: str | None = None) -> Iterator[list[str]]:
    """Make this run the only writer of results of this name inside the block, and keep an earlier run's results.

    Yields notes for the user. Renames the log and the pictures of an earlier run that this one does not continue, and
    removes the unfinished files of killed runs of this name. Raises UserError if another run holds the lock (see
    lock.py), or if results have appeared since the first check.
    """
    with only_run(folder, name) as notes:
        if is_first_process():
            refuse_overwriting(folder, name, overwrite, resume)
            if holds(folder, name):
                remove_half_written(folder, name)
            if not _continues(folder, name, resume):
                notes = [*notes, *_set_aside(folder, name)]
        yield notes


def earlier_results(folder: Path, name: str) -> list[Path]:
    """Return the LoRA files and states of runs with this output_name in `folder`, sorted."""
    return [path for path in _files(folder) if _is_named(path, name, RESULTS)]


def _is_named(path: Path, name: str, endings: re.Pattern) -> bool:
    """Whether the file's name is this one, or what the file system takes for the same, and one of the endings."""
    if path.name.startswith(name) and endings.fullmatch(path.name[len(name) :]):
        return True
    ending = endings.search(path.name)
    if ending is None or _plain(path.name[: ending.start()]) != _plain(name):
        return False
    return os.path.lexists(path.with_name(name + ending[0]))


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def remove_half_written(folder: Path, name: str) -> int:
    """Remove temporary files of killed runs with this output_name; return how many there were.

    The caller must hold the lock on this name in `folder`.
    """
    places = [folder] if is_link(folder / "sample") else [folder, folder / "sample"]
    return sum(remove_leftovers(place, lambda file: _is_written(file, name)) for place in places)


def _is_written(file: str, name: str) -> bool:
    return file.startswith(name) and WRITTEN.fullmatch(file[len(name) :]) is not None


def refuse_traps(folder: Path, name: str, fills: Iterable[str]) -> None:
    """Raise UserError if a file that the run writes in `folder` is a link, which leads out of the folder.

    `folder` itself may be a link: the user chose it. `fills`: the names of the sub-folders that the run fills.
    """
    refuse_links(path for path in _files(folder) if _is_written(path.name, name))
    for place in (folder / one for one in fills):
        option = OPTIONS.get(place.name)
        refuse_links([place], f"Remove the link, or write {option} = that folder" if option else "Remove the link")
        if place.name != "wandb":  # W&B keeps links of its own in there
            inner = [path for path in _files(place) if place.name == "cache" or path.name.startswith(name)]
            refuse_links([*inner, *_files(place / name)])


def refuse_overwriting(folder: Path, name: str, overwrite: bool = False, resume: str | None = None) -> list[Path]:
    """Raise UserError if the run would replace an earlier result that it neither continues nor may `overwrite`.

    folder, name: output_dir and output_name. resume: the state that the run continues. Returns the earlier results
    that may be replaced.
    """
    results = earlier_results(folder, name)
    if not results or _continues(folder, name, resume):
        return []
    if overwrite:
        return results
    more = f" and {len(results) - 1} more files with this name" if len(results) > 1 else ""
    raise UserError(
        f"{results[0]} already exists{more}: an earlier run's results. Choose another output_name"
        f"{_way_on(results)}, or replace them with --overwrite."
    )


def _continues(folder: Path, name: str, resume: str | None) -> bool:
    """Whether the run continues one of these states."""
    if not resume:
        return False
    state = Path(resume)
    return state.resolve().parent == folder.resolve() and _is_named(state, name, RESULTS)


def _way_on(results: list[Path]) -> str:
    """`, go on with --resume STATE` for the last of the states, if there is one."""
    states = [path for path in results if path.name.endswith("-state")]
    if not states:
        return ""
    finished = next((path for path in states if not RESULTS.search(path.name)[1]), None)
    more = " and a larger max_train_steps" if finished else ""
    return f", go on with --resume {finished or states[-1]}{more}"


def _set_aside(folder: Path, name: str) -> list[str]:
    """Rename log, preset and previews of an earlier run to names that no run uses; return a note on where they are."""
    log, sample, preset = folder / f"{name}.log.jsonl", folder / "sample", record_path(folder, name)
    pictures = [path for path in _files(sample) if _is_named(path, name, PICTURES)]
    has_log = log.is_file() and log.stat().st_size > 0
    if not (has_log or pictures):
        return []
    number = next(n for n in count(1) if not (_kept_log(log, n).exists() or _kept_pictures(sample, name, n).exists()))
    kept: list[str] = []
    if has_log:
        os.replace(log, _kept_log(log, number))
        kept.append(str(_kept_log(log, number)))
        if preset.is_file():
            os.replace(preset, preset.with_name(f"{name}.preset-{number}.toml"))
    if pictures:
        target = _kept_pictures(sample, name, number)
        target.mkdir()
        for path in pictures:
            with suppress(PermissionError):  # on Windows another program has it open; the run replaces it if it can
                os.replace(path, target / path.name)
        kept.append(str(target))
    return [f"an earlier run's log and pictures are kept as {' and '.join(kept)}"]


def _files(folder: Path) -> list[Path]:
    """Return the folder's entries, sorted; none if the folder is missing."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _kept_log(log: Path, number: int) -> Path:
    return log.with_name(log.name.replace(".log.jsonl", f".log-{number}.jsonl"))


def _kept_pictures(sample: Path, name: str, number: int) -> Path:
    return sample / f"{name}-earlier-{number}"
