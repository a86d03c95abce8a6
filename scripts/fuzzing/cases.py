"""One case: its input is made, read and judged."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

from danceopd_ext.errors import UserError
from danceopd_ext.system_errors import refused
from fuzzing.octets import STRANGER, make_odd_files
from fuzzing.outcomes import CONTROL, Outcome, frame_of, is_long, is_nameless, traced
from fuzzing.targets import TARGETS, Case
from fuzzing.worlds import World


class TooSlow(BaseException):
    """Raised inside a case that has had its time."""


#: the command's exit code for input that is wrong
WRONG_INPUT = 2


def run_case(target: str, number: int, seed: int, world: World, folder: Path, raises: bool = False) -> Outcome:
    """Make the input of a case in `folder` and read it. Nothing limits it here; see `workers`.

    `raises`: other exceptions than a refusal pass through.
    """
    found = Outcome(target, number)
    rng = Random(f"{seed}:{target}:{number}")
    folder.mkdir(parents=True)
    make_odd_files(folder)
    case = TARGETS[target].make(rng, world, folder)
    found.changes = "; ".join(case.changes)[:400]
    sys.modules.pop(STRANGER, None)
    with _inside(folder):
        _judge(found, case, raises)
    if (folder / "ran").exists():
        found.outcome, found.where = "code", "a file beside the preset was run"
    return found


def _judge(found: Outcome, case: Case, raises: bool) -> None:
    stages: list[str] = []
    try:
        case.run(stages.append)
    except UserError as refusal:
        found.outcome, found.message = "refused", str(refusal)
        found.nameless, found.long = is_nameless(found.message, case.names), is_long(found.message)
        if CONTROL.search(found.message):
            found.outcome = "escapes"
        if _is_memory(refusal):
            found.outcome, found.where = "memory", f"told as a refusal: {frame_of(refusal)}"
    except TooSlow as late:
        found.outcome, found.where, found.trace = "slow", frame_of(late), traced(late)
    except MemoryError as error:
        found.outcome, found.where, found.trace = "memory", frame_of(error), traced(error)
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and (told := refused(error))[0] == WRONG_INPUT:
            found.outcome, found.message, found.stage = "refused", told[1], stages[-1] if stages else ""
            return
        if raises:
            raise
        found.outcome, found.where, found.trace = "exception", frame_of(error), traced(error)
        found.message = f"{type(error).__name__}: {error}"[:300]
        if _is_memory(error):
            found.outcome = "memory"
    found.stage = stages[-1] if stages else ""
    found.message = found.message[:1500]


def _is_memory(error: BaseException | None) -> bool:
    """Whether the allocator refused, directly or as the cause of what was raised."""
    if error is None:
        return False
    words = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "out of memory", "std::bad_alloc")
    own = isinstance(error, MemoryError) or any(word in str(error) for word in words)
    return own or _is_memory(error.__cause__ or error.__context__)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    sys.path.insert(0, str(folder))  # as Python does for who starts a script there
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
