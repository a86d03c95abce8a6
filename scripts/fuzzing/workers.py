"""Cases in forked processes: imports are done before, and no case can spoil, slow or end the others.

Each process does a batch of cases, and tells each outcome through a pipe. Time is the processor's, so that a busy
machine makes no case slow, but waiting counts as well after a while. Memory is the most that was resident.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fuzzing.cases import TooSlow, run_case
from fuzzing.outcomes import CONTROL, RIGHT, Outcome, frame_of, traced
from fuzzing.worlds import World

try:
    import resource
except ImportError:  # Windows, where nothing is forked either
    resource = None

#: what a case may take: seconds of the processor, seconds of waiting, and megabytes
SECONDS, WAITING, MEGABYTES = 5.0, 12.0, 1024
#: how long a process that does not answer a signal may live on
PATIENCE = 40.0
#: what progress bars and the libraries' own reports print: a colour, a line up
HARMLESS = re.compile(r"\x1b\[([\d;]*m|A)")
#: address space beyond what the process has, so that a case that asks for too much is refused rather than killed
MORE_SPACE = 3 * 2**30


def run_batch(
    target: str, numbers: list[int], seed: int, world: World, scratch: Path, keep: bool, done: Callable[[Outcome], None]
) -> None:
    """Run these cases, in as many processes as it takes, and tell each outcome to `done`.

    Where no process can be forked (Windows), they run in this one, without limits.
    """
    left = list(numbers)
    while left and resource is None:
        done(run_case(target, left[0], seed, world, scratch / f"{target}-{left.pop(0)}"))
    while left:
        count = _one_process(target, left, seed, world, scratch, keep, done)
        del left[:count]


def _one_process(
    target: str, numbers: list[int], seed: int, world: World, scratch: Path, keep: bool, done: Callable[[Outcome], None]
) -> int:
    """Fork once; return how many cases are done. A process that died or did not answer has ended its last case."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "w", encoding="utf-8") as pipe:
                _work(target, numbers, seed, world, scratch, keep, lambda line: (pipe.write(line + "\n"), pipe.flush()))
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    count, buffer = 0, b""
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while count < len(numbers):
            if not select.select([pipe], [], [], PATIENCE)[0]:
                os.kill(child, signal.SIGKILL)
                done(Outcome(target, numbers[count], "slow", where="did not answer a signal"))
                count += 1
                break
            piece = pipe.read(1 << 20)
            if not piece:
                break
            *lines, buffer = (buffer + piece).split(b"\n")
            for line in lines:
                done(Outcome(**json.loads(line)))
                count += 1
    status = os.waitpid(child, 0)[1]
    if (
        count < len(numbers)
        and status
        and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and count)
    ):
        done(Outcome(target, numbers[count], "died", where=f"the process ended with {_ending(status)}"))
        count += 1
    return count


def _ending(status: int) -> str:
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"


def _work(
    target: str, numbers: list[int], seed: int, world: World, scratch: Path, keep: bool, tell: Callable[[str], object]
) -> None:
    """In the forked process: one case after the other, each with its limits."""
    os.environ["WANDB_MODE"] = "offline"
    os.setsid()  # no terminal that a case could read from
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    scratch.mkdir(parents=True, exist_ok=True)
    log = os.open(scratch / f"output-{os.getpid()}", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    _limit_space()
    for number in numbers:
        folder = scratch / f"{target}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        found = _limited(target, number, seed, world, folder)
        sys.stdout.flush()
        sys.stderr.flush()
        text = HARMLESS.sub("", os.pread(log, 1 << 20, 0).decode("utf-8", "replace"))
        if found.outcome in RIGHT and (odd := CONTROL.search(text)):
            found.outcome, found.where = "escapes", f"printed {odd[0]!a}"
            found.message = ascii(text[max(0, odd.start() - 150) : odd.end() + 50])
        os.ftruncate(log, 0)
        os.lseek(log, 0, os.SEEK_SET)
        tell(json.dumps(found.as_dict()))
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _limit_space() -> None:
    with contextlib.suppress(OSError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MORE_SPACE, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limited(target: str, number: int, seed: int, world: World, folder: Path) -> Outcome:
    """`run_case` with its limits of time and memory."""
    began, used = time.monotonic(), time.process_time()

    def ring(*_: object) -> None:
        if time.process_time() - used > SECONDS or time.monotonic() - began > WAITING:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise TooSlow
        signal.setitimer(signal.ITIMER_REAL, 0.5)

    signal.signal(signal.SIGALRM, ring)
    before = _memory("VmRSS", reset=True)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        found = run_case(target, number, seed, world, folder)
    except TooSlow as late:  # while its input was made or put away
        found = Outcome(target, number, "slow", where=frame_of(late), trace=traced(late))
    except Exception as error:  # a fault of ours
        found = Outcome(target, number, "died", where=f"its input was not made: {frame_of(error)}", trace=traced(error))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    found.seconds = round(time.process_time() - used, 3)
    found.megabytes = round(max(0.0, _memory("VmHWM") - before), 1)
    if found.outcome in RIGHT and found.seconds > SECONDS:
        found.outcome, found.where = "slow", "ended late"
    if found.outcome in RIGHT and found.megabytes > MEGABYTES:
        found.outcome, found.where = "memory", "ended"
    return found


def _memory(entry: str, reset: bool = False) -> float:
    """Megabytes that /proc knows of this process; 0 on systems without it. `reset`: the most is from now on."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(entry))
    except (OSError, StopIteration):
        return 0.0
