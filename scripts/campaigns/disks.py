"""Lets disks fail at every moment of a small training, and counts what becomes of the result.

    python scripts/campaigns/disks.py [--only full,read-only] [--seed 0] [--out scripts/campaigns/results/disks.md]

Each run trains a tiny SD3 for a few steps in a process of its own (a fork, so for Linux and macOS), with previews, a
log, periodic saves and states. The ways to fail:

- full: the output folder is a small disk in memory (tmpfs) with so much room left that another file is the first that
  does not fit, from the text cache to the last state. It needs root and `mount`; without, it is left out and said.
- read-only: such a disk is mounted read-only while a step is logged, for each step.
- immutable, removed: the output folder is protected (`chattr +i`, needs root) or deleted in the middle.
- limit: the system's limit of the size of files (RLIMIT_FSIZE), for each size between a log line and a state; it holds
  for all folders. In some runs it is raised again while the last save waits.
- errors: Python's own file operations below the output folder (open for writing, os.open, os.replace, os.fsync, mkdir)
  raise an error of the system, from the n-th on or only the n-th, for many n and errors (quota, stale network drive,
  ...). What safetensors writes in Rust is met by the flush and the rename after it.

What may become of a run: it is refused before training, in one message; the LoRA is where it was wanted; it is
elsewhere, and the last line says where; training cannot go on, as its cache of prompts is gone, and keeps what was
learnt; or no place takes it, and the message says what was saved before. The LoRA must
be equal to that of a run that nothing disturbs, and every file that the message names must be there and whole. Anything
else is a fault, and is listed.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import io
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

STEPS = 6
KEYS = {
    "max_train_steps": STEPS, "save_every_n_steps": 2, "save_state": True, "rollout_steps": 2,
    "gradient_accumulation_steps": 1, "sample_every_n_steps": 3, "network_dim": 16,
}  # fmt: skip
ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EPERM", "EACCES", "ESTALE", "ENOENT", "EFBIG")
OUTCOMES = {
    "wanted": "the LoRA is where it was wanted",
    "elsewhere": "the LoRA is elsewhere, and it is said where",
    "kept": "it cannot go on; what was learnt is kept, and it is said where",
    "nowhere": "no place takes it: one message, and what it names is whole",
    "refused": "refused before training, in one message",
    "FAULT": "anything else",
}


@dataclass
class Case:
    """One run. prepare: before it, in its own process; it gets the run's folder. at_step: while a step is logged."""

    kind: str
    name: str
    prepare: Callable[[Path, ExitStack], None] = lambda folder, stack: None
    at_step: dict[int, Callable[[Path], None]] = field(default_factory=dict)
    disk: int | None = None
    """Bytes of a disk of its own that the output folder is; None: an ordinary folder."""
    room: int | None = None
    """Bytes of it that are free when the run starts."""


# --- the run


def train(preset: Path, folder: Path, case: Case) -> int:
    """Train in this process; what is said goes to folder/said.txt. Returns the exit code, 99 for a traceback."""
    from danceopd_ext import fallback_folders
    from danceopd_ext.cli import run
    from danceopd_ext.toolkits.native.journal import Journal
    from danceopd_ext.toolkits.run import main

    said = io.StringIO()
    record = Journal.record

    def recorded(self: Journal, step: int, *given: object) -> None:
        record(self, step, *given)
        case.at_step.get(step, lambda _: None)(folder)

    for name in ("working", "temporary", "home"):
        (folder / name).mkdir()
    os.chdir(folder / "working")
    os.environ["HOME"] = str(folder / "home")
    tempfile.tempdir = str(folder / "temporary")
    fallback_folders.PAUSE, fallback_folders.LONGEST_WAIT = 0.3, 1.5
    Journal.record = recorded
    code = 99
    with redirect_stdout(said), redirect_stderr(said), ExitStack() as stack:
        try:
            case.prepare(folder, stack)
            code = run(main, ["--config", str(preset)])
        except BaseException:
            said.write(traceback.format_exc())
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (folder / "said.txt").write_text(said.getvalue(), encoding="utf-8")
    return code


def run_case(case: Case, model: Path, teachers: dict, folder: Path, expected: Path | None) -> str:
    """Run it in a fork, and return its outcome."""
    from tests.tiny.presets import write_preset

    samples = folder / "samples.txt"
    folder.mkdir(parents=True)
    samples.write_text("a red cat --w 16 --h 16 --s 2\n", encoding="utf-8")
    preset = write_preset(folder, model, teachers, sample_prompts=str(samples), **KEYS)
    output = folder / "output"
    output.mkdir()
    mounted = case.disk is not None and mount(output, case.disk)
    try:
        if case.room is not None:
            filler = os.statvfs(output).f_bavail * os.statvfs(output).f_frsize - case.room
            (output / "filler").write_bytes(bytes(max(0, filler)))
        child = os.fork()
        if not child:
            code = 98
            try:
                code = train(preset, folder, case)
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return judge(folder, code, expected)
    finally:
        subprocess.run(["chattr", "-i", str(output)], capture_output=True)
        if mounted:
            subprocess.run(["umount", "-l", str(output)], check=True)


def mount(folder: Path, size: int) -> bool:
    """Make the folder a disk in memory. Raises CalledProcessError where that is not allowed."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    return True


def can_mount() -> bool:
    """Return whether this user may mount a file system of its own."""
    with tempfile.TemporaryDirectory() as folder, suppress(subprocess.CalledProcessError, OSError):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True, capture_output=True)
        subprocess.run(["umount", folder], check=True)
        return True
    return False


# --- the outcome


def judge(folder: Path, code: int, expected: Path | None) -> str:
    """The outcome of a run; the reason of a fault is added."""
    said = (folder / "said.txt").read_text(encoding="utf-8") if (folder / "said.txt").is_file() else ""
    lines = [line.rpartition("\r")[2].strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if code not in (0, 1, 2) or "Traceback" in said:
        return f"FAULT: exit code {code}: {last}"
    if half := [str(path) for path in folder.rglob("*.danceopd.part") if not is_gone(path)]:
        return f"FAULT: left {half[0]}"
    if code == 0:
        found = re.search(r"^done: (.*)$", said, re.MULTILINE)
        if not found or not Path(found[1]).is_file():
            return f"FAULT: not where it says: {last}"
        if expected and not same(Path(found[1]), expected):
            return f"FAULT: another LoRA: {found[1]}"
        wanted = folder / "output" / "fused.safetensors"
        if Path(found[1]) == wanted:
            return "wanted"
        return "elsewhere" if f"saved {found[1]}" in said else f"FAULT: not said why: {last}"
    message = next((line for line in lines if line.startswith(("error: ", "stopped: "))), "")
    if not message:
        return f"FAULT: no message: {last}"
    if "step/s" not in said or "training:" not in said:
        return "refused"
    named = re.search(r"Saved before, and whole: (.*)\.$|are saved in (.*?)\. (?:Resume with|No state)", message)
    broken = [place for place in (" and ".join(filter(None, named.groups())).split(" and ") if named else ())
              if not is_whole(Path(place))]  # fmt: skip
    if broken:
        return f"FAULT: not whole: {broken[0]}"
    if named and named[2]:
        return "kept"
    tried = [f"{folder / name}: " in message for name in ("output", "working", "temporary", "home")]
    return "nowhere" if all(tried) else f"FAULT: given up: {message}"


def is_gone(part: Path) -> bool:
    """Whether nobody could have removed it: the folder is protected or read-only."""
    return not os.access(part.parent, os.W_OK) or os.statvfs(part.parent).f_flag & os.ST_RDONLY != 0


def same(one: Path, other: Path) -> bool:
    """Return whether two LoRA files hold the same tensors, bit for bit."""
    from safetensors.torch import load_file

    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def is_whole(path: Path) -> bool:
    """Whether a LoRA loads, or a state is as its digests say."""
    import hashlib
    import json

    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return bool(load_file(path))
        facts = json.loads((path / "state.json").read_text(encoding="utf-8"))
        found = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in facts["sha256"]}
    except Exception:
        return False
    return found == facts["sha256"]


# --- the ways to fail


def full(need: int) -> Iterator[Case]:
    """Disks with less and less room; need: bytes of a run that nothing disturbs."""
    for part in range(32):
        yield Case("full", f"{part}/32 of the room", disk=4 * need, room=need * part // 32)


def _close_lock(folder: Path) -> None:
    """Close the run's lock: `mount` cannot remount a disk that has a file open for writing; an error of a disk can."""
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if Path(os.readlink(f"/proc/self/fd/{number}")).parent == folder:
                os.dup2(os.open(os.devnull, os.O_RDWR), int(number))


def read_only() -> Iterator[Case]:
    """Yield runs whose disk is mounted read-only after each step."""

    def remount(folder: Path) -> None:
        _close_lock(folder / "output")
        subprocess.run(["mount", "-o", "remount,ro", str(folder / "output")], check=True)

    for step in range(1, STEPS + 1):
        yield Case("read-only", f"from step {step}", at_step={step: remount}, disk=2**26)


def taken_away() -> Iterator[Case]:
    """The folder is deleted, protected, or comes back as a file."""

    def remove(folder: Path) -> None:
        shutil.rmtree(folder / "output")

    def protect(folder: Path) -> None:
        subprocess.run(["chattr", "+i", str(folder / "output")], check=True, capture_output=True)

    def replace(folder: Path) -> None:
        shutil.rmtree(folder / "output")
        (folder / "output").touch()

    for name, change in {"deleted": remove, "immutable": protect, "a file": replace}.items():
        for step in range(1, STEPS + 1):
            yield Case("taken away", f"{name} in step {step}", at_step={step: change})


def limits(sizes: list[int]) -> Iterator[Case]:
    """The limit holds everywhere, or until the last save waits."""

    def limit(size: int, seconds: float | None) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            if seconds is not None:
                whole = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                threading.Timer(seconds, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, whole)).start()

        return change

    for size in sizes:
        yield Case(
            "limit", f"{size} bytes from the start", prepare=lambda folder, _, size=size: limit(size, None)(folder)
        )
        for step in (1, STEPS):
            yield Case("limit", f"{size} bytes from step {step}", at_step={step: limit(size, None)})
        yield Case("limit", f"{size} bytes, raised while it waits", at_step={STEPS: limit(size, 0.8)})


def errors(count: int, rng: random.Random) -> Iterator[Case]:
    """The n-th file operation below the output folder fails, alone or with all after it."""
    for number in range(count):
        name, alone, first = rng.choice(ERRORS), rng.random() < 0.5, 1 + number * 180 // count
        title = f"{name} at operation {first}{'' if alone else ' and all after it'}"
        yield Case(
            "errors", title, prepare=lambda folder, stack, given=(name, alone, first): fail(folder, stack, *given)
        )


def fail(folder: Path, stack: ExitStack, name: str, alone: bool, first: int) -> None:
    """Patch Python's file operations in this process."""
    output, count = str(folder / "output"), [0]
    number = getattr(errno, name)

    def wrapped(call: Callable, place: int, writes: Callable[..., bool] = lambda *given, **named: True) -> Callable:
        def called(*given: object, **named: object) -> object:
            path = given[place] if len(given) > place else None
            if isinstance(path, (str, os.PathLike)) and str(path).startswith(output) and writes(*given, **named):
                count[0] += 1
                if count[0] == first or (count[0] > first and not alone):
                    raise OSError(number, os.strerror(number), str(path))
            return call(*given, **named)

        return called

    def opens_to_write(_: object, mode: str = "r", *__: object, **named: object) -> bool:
        return any(letter in named.get("mode", mode) for letter in "wax+")

    def flags_to_write(_: object, flags: int, *__: object, **___: object) -> bool:
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    for owner, attribute, place, writes in (
        (builtins, "open", 0, opens_to_write), (io, "open", 0, opens_to_write), (os, "open", 0, flags_to_write),
        (os, "replace", 1, None), (os, "mkdir", 0, None),
    ):  # fmt: skip
        patched = wrapped(getattr(owner, attribute), place, *([writes] if writes else []))
        stack.enter_context(mock.patch.object(owner, attribute, patched))


# --- the campaign


def campaign(kinds: list[str], seed: int, work: Path, out: Path) -> tuple[str, list[str]]:
    """Run all cases; return the text of the results, which `out` has after each case, and the faults."""
    import torch

    from tests.tiny.loras import write_random_lora
    from tests.tiny.pipelines import save_any

    torch.set_num_threads(1)
    model = save_any("sd3", work / "sd3")
    teachers = {
        name: {"lora": str(write_random_lora(work / f"{name}.safetensors", model, number, size=0.15))}
        for number, name in enumerate(("one", "two"))
    }
    whole = work / "undisturbed"
    if (outcome := run_case(Case("none", "undisturbed"), model, teachers, whole, None)) != "wanted":
        raise SystemExit(f"the run that nothing disturbs: {outcome}")
    expected = whole / "output" / "fused.safetensors"
    files = [path for path in (whole / "output").rglob("*") if path.is_file()]
    need = sum(-(-path.stat().st_size // 4096) * 4096 + 4096 for path in files)
    state = max(path.stat().st_size for path in files if path.suffix == ".pt")
    sizes = [200, 1000, 10_000, expected.stat().st_size // 2, expected.stat().st_size - 1, state - 1, state]
    made = {
        "full": full(need), "read-only": read_only(), "taken away": taken_away(),
        "limit": limits(sizes),
        "errors": errors(60, random.Random(seed)),
    }  # fmt: skip
    left_out = [] if can_mount() else ["full", "read-only"]
    counts: dict[str, Counter] = {}
    faults, text = [], ""
    for kind in [kind for kind in made if kind in kinds and kind not in left_out]:
        counts[kind] = Counter()
        for number, case in enumerate(made[kind]):
            folder = work / f"{kind}-{number}".replace(" ", "-")
            outcome = run_case(case, model, teachers, folder, expected)
            counts[kind][outcome.partition(":")[0]] += 1
            print(f"{kind:10} {case.name:45} {outcome}", flush=True)
            if outcome.startswith("FAULT"):
                faults.append(f"{kind}, {case.name}: {outcome}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
            text = as_markdown(counts, faults, left_out, seed)
            out.write_text(text, encoding="utf-8")
    return text, faults


def as_markdown(counts: dict[str, Counter], faults: list[str], left_out: list[str], seed: int) -> str:
    """Return the result page: outcomes by kind of fault, and the faults."""
    lines = ["# Disks that fail", "", f"Written by `python scripts/campaigns/disks.py --seed {seed}`.", ""]
    lines += ["| | runs | " + " | ".join(OUTCOMES.values()) + " |", "|---" * (len(OUTCOMES) + 2) + "|"]
    for kind, found in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        lines.append(f"| {kind} | {found.total()} | " + " | ".join(str(found[name]) for name in OUTCOMES) + " |")
    if left_out:
        lines += ["", f"Left out, as this user may not mount: {', '.join(left_out)}."]
    return "\n".join([*lines, *(["", "Faults:", *(f"- {fault}" for fault in faults)] if faults else [])]) + "\n"


def main() -> int:
    """Run the cases of the command line and return the number of faults."""
    kinds = ["full", "read-only", "taken away", "limit", "errors"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(kinds), help="kinds, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "scripts" / "campaigns" / "results" / "disks.md")
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="disks-"))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    text, faults = campaign(given.only.split(","), given.seed, work, given.out.resolve())
    print(f"\n{text}\nRuns with faults are kept in {work}" if faults else f"\n{text}")
    if not faults:
        shutil.rmtree(work, ignore_errors=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
