"""Trains what is missing, several runs at a time, each in its own process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from danceopd_ext.errors import TrainingError
from danceopd_ext.files import whole_file
from danceopd_ext.foreign.json import parse_lines
from danceopd_ext.foreign.text import read_text
from danceopd_ext.reproduce.presets import NAME, Run
from danceopd_ext.subprocesses import ROOT, environment

TOLD = "train.log"
#: starts the training of a preset: (run, its arguments, a file for what it tells) -> exit code
Start = Callable[[Run, Sequence[str], Path], int]
#: the running trainings
STARTED: set[subprocess.Popen] = set()
#: whether trainings must stop
STOPPING = threading.Event()


@dataclass(frozen=True)
class Cost:
    """The cost of a run; zero for a merge."""

    forwards: int
    """samples through the transformer: rollout, teacher and student"""
    backwards: int
    """those of the forwards that had a backward as well"""
    seconds: float
    """of its optimizer steps, on one thread"""


def train_missing(runs: Sequence[Run], jobs: int, start: Start | None = None) -> int:
    """Train every run that has no LoRA yet, `jobs` at once; return how many there were.

    A run with a saved state continues from it. Raises TrainingError, naming the log, for runs that fail or are
    stopped; the others are finished first.
    """
    todo = [run for run in {run.folder: run for run in runs}.values() if not run.lora.is_file()]
    failed: list[str] = []
    STOPPING.clear()
    with ThreadPoolExecutor(max(1, jobs)) as pool, tqdm(total=len(todo), desc="training", unit="run") as bar:

        def one(run: Run) -> None:
            if train(run, start or start_process) or not run.lora.is_file():
                failed.append(f"{run.folder / TOLD}, which ends with: {last_words(run.folder / TOLD)}")
            bar.update()

        try:
            list(pool.map(one, todo))
        except BaseException:  # stopped: started trainings must not continue alone
            pool.shutdown(wait=False, cancel_futures=True)
            STOPPING.set()  # for one that is being started now
            for process in list(STARTED):
                process.terminate()
            raise
    if failed:
        raise TrainingError(
            f"{len(failed)} of {len(todo)} runs did not finish; see {failed[0]}\nThe same command continues where they "
            "stopped."
        )
    return len(todo)


def train(run: Run, start: Start) -> int:
    """Write the preset and start its training, from its newest state if it has one; the exit code."""
    preset = run.folder / "preset.toml"
    with whole_file(preset) as part:
        part.write_text(run.toml(), encoding="utf-8")
    state = newest_state(run.folder)
    resume = ["--resume", str(state)] if state else []
    return start(run, ["--config", str(preset), "--overwrite", *resume], run.folder / TOLD)


def last_words(told: Path) -> str:
    """Return the last line of a run's output, usually the reason why it stopped."""
    lines = told.read_text(encoding="utf-8", errors="replace").split("\n") if told.is_file() else []
    return next((line.split("\r")[-1].strip() for line in reversed(lines) if line.strip()), "(nothing)")


def newest_state(folder: Path) -> Path | None:
    """The state of the most steps in a run's folder."""
    return max(folder.glob(f"{NAME}-step*-state"), default=None)


def start_process(run: Run, arguments: Sequence[str], told: Path) -> int:
    """Start `train_danceopd.py` on one thread, in an interpreter of its own, from the current directory."""
    own = environment(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    with open(told, "a", encoding="utf-8") as file:
        command = [sys.executable, str(ROOT / "train_danceopd.py"), *arguments]
        process = subprocess.Popen(command, env=own, stdout=file, stderr=subprocess.STDOUT)
        STARTED.add(process)
        if STOPPING.is_set():
            process.terminate()
        try:
            return process.wait()
        finally:
            STARTED.discard(process)


def cost_of(run: Run) -> Cost:
    """Return the cost of a finished run, from its log."""
    if not run.log.is_file():
        return Cost(0, 0, 0.0)
    steps = costs_of_steps(run)
    return Cost(*(sum(getattr(step, name) for step in steps) for name in ("forwards", "backwards", "seconds")))


def costs_of_steps(run: Run) -> list[Cost]:
    """Return the cost of each step of a run, from its log."""
    entries = [entry for _, entry in parse_lines(read_text(run.log, "log"), str(run.log), finite=False)]
    return [
        Cost(entry["forwards"], round(entry["student_forwards_per_sample"] * entry["samples"]), entry["seconds"])
        for entry in entries
    ]
