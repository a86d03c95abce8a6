"""Finds what a toolkit has saved in this run; both toolkits name files and folders after the step."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Saved:
    """The newest LoRA of a run and the newest state; None if nothing was saved."""

    lora: Path | None = None
    state: Path | None = None

    def how_to_continue(self) -> str:
        """Return one or two sentences with the flag to continue from here; empty if nothing was saved."""
        if self.state:
            return f"Resume with: --resume {self.state}"
        if self.lora:
            return (
                f"No state was saved. To start a new run from this LoRA, use --network_weights {self.lora}. "
                "To be able to resume the next run, set save_state = true."
            )
        return ""


def saved_since(args: Namespace, start: float) -> Saved:
    """Return the newest files of this run. start: when it began, in seconds since the epoch."""
    return _newest(args, lambda path, _: path.stat().st_mtime >= start - 2)  # FAT rounds to 2 s


def saved_at(args: Namespace, step: int) -> Saved:
    """Return what was saved at this step."""
    return _newest(args, lambda _, other: other == step)


def _newest(args: Namespace, wanted: Callable[[Path, int], bool]) -> Saved:
    """wanted: of a path and its step."""
    found: dict[bool, dict[int, Path]] = {False: {}, True: {}}
    pattern = re.compile(re.escape(args.output_name) + r"-step(\d{8})(-state)?(?:\.\w+)?$")
    folder = Path(args.output_dir)
    for path in folder.iterdir() if folder.is_dir() else ():
        match = pattern.match(path.name)
        if match and path.is_dir() == bool(match[2]) and wanted(path, int(match[1])):
            found[path.is_dir()][int(match[1])] = path
    newest = {kind: paths[max(paths)] if paths else None for kind, paths in found.items()}
    return Saved(newest[False], newest[True])
