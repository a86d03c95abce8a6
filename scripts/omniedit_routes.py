"""Turn OmniEdit-style edit data into folders that an edit route reads, local and global edits apart.

Each row has src_img, edited_img, edited_prompt_list and task. Edits of style, background, environment, weather,
lighting or tone are global, the others local (the paper's split); --task swap=global changes that for one task. Writes

    OUT/local/source/000000.png    what is edited
    OUT/local/target/000000.png    what the data says should come out, with its instruction in 000000.txt
    OUT/local.csv                  the same as columns prompt, source, target
    OUT/global/..., OUT/global.csv
    OUT/dataset.toml               both as subsets, for the native trainer, at the resolution of its preset
    OUT/settings.json              what all this was made from

The native trainer takes dataset.toml as its `dataset_config`, with teachers named `local` and `global`. musubi-tuner
takes the folders, in a dataset file of its own form: a target folder as image_directory, the source folder beside it as
control_directory. DanceOPD needs no target: the teacher says what should come out.

Of a hub dataset whole .parquet files are fetched, one after the other, until both kinds are full; without --limit all
of its training split. A run that was cut off goes on where it was, and one with a larger --limit adds to what is there;
other data or other options need another OUT.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from danceopd_ext.cli import positive, run
from danceopd_ext.config.toml_text import toml_text
from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.data.tables import Row, encoded_of, read_rows, rgb_of, text_of
from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_file
from danceopd_ext.foreign.json import read_object

EXAMPLE = """\
example, 2000 edits of each kind, and a training of both (edits.toml has [danceopd.teachers.local] and .global):

    python scripts/omniedit_routes.py TIGER-Lab/OmniEdit-Filtered-1.2M --out data/edits --limit 2000
    accelerate launch train_danceopd.py --config edits.toml --dataset_config data/edits/dataset.toml
"""
#: words of a task that make it global; * is any ending, so that lighting counts, and highlight and envelope do not
GLOBAL_WORDS = ("style*", "background*", "env", "environment*", "weather*", "light*", "tone*")
ROUTES = ("local", "global")
#: what the folder OUT was made from, so that no other run mixes with it
SETTINGS = "settings.json"
#: in a picture that was written here: the digest of the picture that it was made from
MADE_FROM = "made from"
DATASET = """\
[general]
caption_extension = ".txt"

[[datasets]]
enable_bucket = true
{subsets}"""
SUBSET = """
  [[datasets.subsets]]
  image_dir = {target}
  conditioning_data_dir = {source}
  custom_attributes.teacher = "{route}"
"""


class Edit(NamedTuple):
    """An instruction, and where its pictures are."""

    instruction: str
    source: Path
    target: Path


Pictures = Mapping[Path, tuple[Image.Image, str]]
"""What is to be written where, each with the digest of what it was made from."""


def main(argv: Sequence[str]) -> None:
    """Read, split and write. Raises UserError."""
    arguments = parser().parse_args(argv)
    chosen = dict(parse_task(text) for text in arguments.task)
    hub = [] if os.path.exists(arguments.data) else hub_files(arguments.data)
    settings = {
        "data": digest_of(arguments.data, hub),
        "--task": ", ".join(sorted(f"{task}={route}" for task, route in chosen.items())),
        "--limit": arguments.limit,
        "the split": " ".join(GLOBAL_WORDS),
    }
    out = Path(arguments.out)
    check_settings(out, settings)
    listed: dict[str, list[Edit]] = {route: [] for route in ROUTES}
    tasks: set[str] = set()
    for route, edit, pictures in read_edits(rows_of(arguments.data, hub), chosen, arguments, listed, tasks):
        if not any(listed.values()):  # the first row that is sound: before it nothing is written
            with whole_file(out / SETTINGS) as part:
                part.write_text(json.dumps(settings, indent=2), encoding="utf-8")
        write_edit(edit, pictures)
        listed[route].append(edit)
    found = {route: edits for route, edits in listed.items() if edits}
    if not found:
        raise UserError(f"{arguments.data}: no row of it can be used.")
    write_tables(out, found)
    for task in chosen.keys() - tasks:
        print(f"note: --task {task}: no row that was read has this task; there are {', '.join(sorted(tasks))}")


def check_settings(out: Path, settings: Mapping[str, object]) -> None:
    """Raise UserError where `out` holds edits of other data or options: their numbers are those of other rows.

    More of the same (a larger --limit) leaves the numbers as they are.
    """
    remedy = f"Use another --out, or remove {', '.join(ROUTES)} and {SETTINGS} there."
    path = out / SETTINGS
    if not path.is_file():
        taken = [out / route for route in ROUTES if (out / route).exists()]
        if taken:
            raise UserError(f"{taken[0]} is there already, and no {path} says what it was made from. {remedy}")
        return
    try:
        before = read_object(path, "note on the routes")
    except UserError as error:
        raise UserError(f"{error} {remedy}") from None
    old, new = before.get("--limit"), settings["--limit"]
    if isinstance(old, int) and (new is None or new >= old):
        before["--limit"] = new
    for key, value in settings.items():
        if before.get(key) != value:
            other = f"with {key} {before.get(key) or 'none'}, not {value or 'none'}"
            raise UserError(f"{out} holds edits made {'from other data' if key == 'data' else other}. {remedy}")


def digest_of(data: str, hub: Sequence[tuple[str, str]]) -> str:
    """What tells data apart, wherever it lies: the files that rows are read from. Raises UserError."""
    path = Path(data)
    if hub:
        return hashlib.sha256(json.dumps(hub).encode()).hexdigest()[:16]
    try:
        if path.is_dir() or path.suffix == ".parquet":
            return fingerprint(sorted(path.rglob("*.parquet")) if path.is_dir() else [path])
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]  # rows of the same length may have changed places
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def route_of_task(task: str) -> str:
    """`global` for the tasks that change the whole picture (paper, training data), else `local`."""
    words = re.split(r"[\W\d_]+", task.lower())
    return "global" if any(fnmatchcase(word, known) for word in words for known in GLOBAL_WORDS) else "local"


def instruction_of(row: Row, where: str) -> str:
    """The last of the row's wordings: OmniEdit puts the short one last."""
    texts = row.get("edited_prompt_list")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not isinstance(texts[-1], str) or not texts[-1].strip():
        raise UserError(f'{where}: "edited_prompt_list" holds no instruction.')
    return " ".join(texts[-1].split())


def read_edit(row: Row, folder: Path, number: int, base: Path, where: str) -> tuple[Edit, Pictures]:
    """Read a row, and those of its pictures that are not there yet, made from the same. Raises UserError."""
    instruction = instruction_of(row, where)
    source, target = (folder / kind / f"{number:06d}.png" for kind in ("source", "target"))
    missing = {}
    for path, name in ((source, "src_img"), (target, "edited_img")):
        data = encoded_of(row, name, base, where)
        digest = hashlib.sha256(data).hexdigest()
        if made_from(path) != digest:
            missing[path] = rgb_of(data, name, where), digest
    return Edit(instruction, source, target), missing


def made_from(path: Path) -> str | None:
    """The digest that `write_edit` noted in a picture; None where there is none."""
    try:
        with Image.open(path) as picture:
            return picture.info.get(MADE_FROM)
    except (OSError, ValueError, SyntaxError):
        return None


def write_edit(edit: Edit, pictures: Pictures) -> None:
    """Write pictures and instruction."""
    for path, (picture, digest) in pictures.items():
        note = PngInfo()
        note.add_text(MADE_FROM, digest)
        with whole_file(path) as part:
            picture.save(part, format="PNG", pnginfo=note)
    with whole_file(edit.target.with_suffix(".txt")) as part:
        part.write_text(edit.instruction + "\n", encoding="utf-8")


def write_tables(out: Path, found: Mapping[str, Sequence[Edit]]) -> None:
    """A .csv for each route, and dataset.toml."""
    subsets = ""
    for route, edits in found.items():
        with whole_file(out / f"{route}.csv") as part, open(part, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(("prompt", "source", "target"))
            for edit in edits:
                pictures = (path.relative_to(out).as_posix() for path in (edit.source, edit.target))
                table.writerow((edit.instruction, *pictures))
        folder = (out / route).resolve()
        places = {kind: toml_text((folder / kind).as_posix()) for kind in ("source", "target")}
        subsets += SUBSET.format(route=route, **places)
        print(f"{route}: {len(edits)} edits in {out / route}")
    with whole_file(out / "dataset.toml") as part:
        part.write_text(DATASET.format(subsets=subsets), encoding="utf-8")
    print(f"dataset_config = {toml_text((out / 'dataset.toml').as_posix())}")


def rows_of(data: str, hub: Sequence[tuple[str, str]]) -> Iterator[tuple[str, Row, Path]]:
    """(where, row, folder of its pictures) of a local file or folder, or of the files of a hub dataset one by one."""
    path = Path(data)
    if not hub:
        yield from ((where, row, path if os.path.isdir(path) else path.parent) for where, row in read_rows(path))
    for name, _ in hub:
        file = download(data, name)
        yield from ((where, row, file.parent) for where, row in read_rows(file))


def read_edits(
    rows: Iterable[tuple[str, Row, Path]],
    chosen: Mapping[str, str],
    arguments: argparse.Namespace,
    listed: Mapping[str, Sequence[Edit]],
    tasks: set[str],
) -> Iterator[tuple[str, Edit, Pictures]]:
    """Every edit with its route and the pictures to be written, up to --limit of each route in `listed`.

    Adds the rows' tasks to `tasks`. Raises UserError for a broken row; with --skip_broken it is said and left out.
    """
    limit = arguments.limit
    with tqdm(total=limit and limit * len(ROUTES), desc="writing", unit="edit") as bar:
        for where, row, folder in rows:
            try:
                task = text_of(row, "task", where)
                tasks.add(task)
                route = chosen.get(task, route_of_task(task))
                if limit is not None and len(listed[route]) >= limit:
                    continue
                edit, pictures = read_edit(row, Path(arguments.out) / route, len(listed[route]), folder, where)
            except UserError as problem:
                if not arguments.skip_broken:
                    raise UserError(f"{problem} To leave such rows out: --skip_broken.") from None
                bar.write(f"left out: {problem}")
                continue
            yield route, edit, pictures
            bar.update()
            if limit is not None and all(len(made) >= limit for made in listed.values()):
                return  # before the next row: it may be in a file that would have to be fetched


def hub_files(name: str) -> list[tuple[str, str]]:
    """The .parquet files of a hub dataset's training split, each with the digest of its content. Raises UserError."""
    from huggingface_hub import HfApi

    try:
        tree = HfApi().list_repo_tree(name, repo_type="dataset", recursive=True)
        files = sorted((entry.path, entry.blob_id) for entry in tree if entry.path.endswith(".parquet"))
    except Exception as error:  # the hub client raises its own, transport and OS errors
        raise UserError(f"{name} is no file or folder here, and {not_given(error)}.") from None
    if not files:
        raise UserError(f"{name}: the dataset has no .parquet file.")
    return [file for file in files if "train" in file[0]] or files


def download(name: str, file: str) -> Path:
    """A file of a hub dataset, fetched when it is needed. Raises UserError."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file, repo_type="dataset"))
    except Exception as error:
        raise UserError(f"{name}/{file}: {not_given(error)}. Start again later: what is there stays.") from None


def not_given(error: Exception) -> str:
    return f"the hub does not give it ({(str(error).strip().splitlines() or [type(error).__name__])[0]})"


def parse_task(text: str) -> tuple[str, str]:
    task, _, route = text.rpartition("=")
    if not task or route not in ROUTES:
        raise UserError(f"--task {text}: write TASK=local or TASK=global.")
    return task, route


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=raw)
    made.add_argument("data", help="hub id of a dataset, or a .parquet or .jsonl file, or a folder of .parquet files")
    made.add_argument("--out", required=True, help="folder to write")
    made.add_argument("--limit", type=positive, help="at most so many edits of each kind (default: all)")
    made.add_argument("--skip_broken", action="store_true", help="leave rows out whose pictures cannot be read")
    made.add_argument("--task", action="append", default=[], help="TASK=local or TASK=global; may be repeated")
    return made


if __name__ == "__main__":
    sys.exit(run(main))
