"""Finds what an earlier run left under the same name, so that no run replaces a result that nobody gave up."""

from __future__ import annotations

import os
import re
from pathlib import Path

from danceopd_ext.errors import UserError

#: after output_name: nothing, a step or an epoch, then what the file is; names of this package and of the toolkits
RESULTS = re.compile(r"(-step\d{8}|-\d{6})?(\.safetensors|-state)$")


def earlier_results(folder: Path, name: str) -> list[Path]:
    """The LoRA files and states of runs with this output_name in `folder`, sorted; none if there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _is_result(path.name, name))


def _is_result(file: str, name: str) -> bool:
    same = os.path.normcase(file[: len(name)]) == os.path.normcase(name)
    return same and RESULTS.fullmatch(file[len(name) :]) is not None


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
    more = f" and {len(results) - 1} more of that name" if len(results) > 1 else ""
    raise UserError(
        f"{results[0]} is there already{more}: an earlier run's results. Choose another output_name"
        f"{_way_on(results)}, or replace them with --overwrite."
    )


def _continues(folder: Path, name: str, resume: str | None) -> bool:
    """Whether the run goes on from one of these very states."""
    if not resume:
        return False
    state = Path(resume)
    return state.resolve().parent == folder.resolve() and _is_result(state.name, name)


def _way_on(results: list[Path]) -> str:
    """`, go on with --resume STATE` for the last of the states, if there is one."""
    states = [path for path in results if path.name.endswith("-state")]
    if not states:
        return ""
    finished = next((path for path in states if not RESULTS.search(path.name)[1]), None)
    more = " and a larger max_train_steps" if finished else ""
    return f", go on with --resume {finished or states[-1]}{more}"
