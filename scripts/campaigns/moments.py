"""Runs of the trainer in forked processes, each of which gets a signal at a moment that a seed decides.

Moments are counted, not timed, so that a busy machine draws the same ones: every use of a file below the run's folder
(Python's audit events: open, rename, mkdir, remove) and every call of a module (loading, encoding, steps, previews).
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

#: Python's names for what is done to files
FILES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "os.scandir")


@dataclass(frozen=True)
class Moment:
    """The `count`-th use of a file, or the `count`-th call of a module, at which the process gets the signal."""

    kind: str
    count: int
    number: int

    def __str__(self) -> str:
        return f"{signal.Signals(self.number).name} at {self.kind} {self.count}"


@dataclass(frozen=True)
class Ended:
    """code: the exit code, or minus the signal. out, err: what was printed. counts: kind -> how many there were."""

    code: int
    out: str
    err: str
    counts: dict[str, int]

    @property
    def last_line(self) -> str:
        return (self.out.strip().splitlines() or [""])[-1]


def run_forked(command: Callable[[], int], folder: Path, moment: Moment | None = None) -> Ended:
    """Call `command`, which returns an exit code, in a child of this process. folder: where the run's files are."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {name: folder / f".campaign.{name}" for name in ("out", "err", "counts")}
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _be_child(command, folder, names, moment)
    _, status = os.waitpid(child, 0)
    out, err, counts = (path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
                        for path in names.values())  # fmt: skip
    for path in names.values():
        path.unlink(missing_ok=True)
    counted = {kind: int(count) for kind, _, count in (line.partition(" ") for line in counts.splitlines())}
    return Ended(os.waitstatus_to_exitcode(status), out, err, counted)


def _be_child(command: Callable[[], int], folder: Path, names: dict[str, Path], moment: Moment | None) -> None:
    hear_signals()
    os.setpgid(0, 0)  # a signal to the run goes to its own children too, and to nobody else
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(names[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    code = 70
    try:
        counts = watch(folder, moment)
        code = command()
        names["counts"].write_text("".join(f"{kind} {count}\n" for kind, count in counts.items()), encoding="utf-8")
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def hear_signals() -> None:
    """Undo what the parent ignores: under nohup, or in the background of a script, some would not arrive."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def watch(folder: Path, moment: Moment | None) -> dict[str, int]:
    """Count from now on, and send this process's group the signal at the moment. Returns the counts, as they grow."""
    counts = {"file": 0, "module": 0}
    below = os.fspath(folder.resolve()) + os.sep

    def count(kind: str) -> None:
        counts[kind] += 1
        if moment and moment.kind == kind and counts[kind] == moment.count:
            os.killpg(0, moment.number)

    def audit(event: str, arguments: tuple) -> None:
        named = event in FILES and arguments and isinstance(arguments[0], (str, os.PathLike))
        if named and os.path.abspath(arguments[0]).startswith(below):
            count("file")

    sys.addaudithook(audit)
    torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: count("module"))
    return counts
