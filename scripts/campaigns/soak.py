"""Trains a tiny SD3 for thousands of steps and measures whether anything grows: memory, open files, threads, time.

    python scripts/campaigns/soak.py                   # 10,000 steps, about ten minutes on one idle core
    python scripts/campaigns/soak.py --steps 300 --every 10

The real command runs in this process, with two LoRA teachers, guidance, previews, saves and states on the way; on a GPU
if there is one. Every so many steps a line goes to soak.jsonl: resident memory, open file descriptors (handles on
Windows), threads, seconds of a step by the clock and of this process's own CPU time (which the load of other programs
changes little, so that it is judged), and the memory that tensors hold on the GPU. summary.json has the slope of each
per 1,000 steps after a warm-up (Theil-Sen: the median of all pairs' slopes, which single slow steps do not move) beside
what is tolerated, and soak.png the curves. Exit code 1: something drifts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from danceopd_ext.cli import run  # noqa: E402 - the project is found by the line above
from danceopd_ext.errors import TrainingError  # noqa: E402
from danceopd_ext.files import whole_file  # noqa: E402
from danceopd_ext.ranges import STEPS  # noqa: E402
from danceopd_ext.toolkits.native.journal import Journal  # noqa: E402
from danceopd_ext.toolkits.run import main as train  # noqa: E402
from danceopd_ext.whole_numbers import whole  # noqa: E402

#: steps before these are not judged: caches fill, allocators settle; at least so many, and this share of the run
WARM_UP, WARM_UP_SHARE = 50, 0.1
KEYS = {
    "rollout_steps": 2, "gradient_accumulation_steps": 1, "train_batch_size": 2, "learning_rate": 1e-3,
    "network_dim": 4, "save_state": True,
}  # fmt: skip


@dataclass(frozen=True)
class Tolerance:
    """What may grow per 1,000 steps; a growth over the whole run below `floor` is noise and passes in any case.

    share: both are shares of the median of what is measured, not its own unit.
    """

    unit: str
    slope: float
    floor: float
    share: bool = False


TOLERANCES = {
    "resident_mb": Tolerance("MiB", 2.0, 10.0),
    "descriptors": Tolerance("open files", 0.2, 2.0),
    "threads": Tolerance("threads", 0.2, 2.0),
    "cpu_seconds": Tolerance("of the median", 0.01, 0.1, share=True),
    "gpu_mb": Tolerance("MiB", 0.5, 2.0),
}


class Meter:
    """Writes a line every `every` steps; `record` is called after each step."""

    def __init__(self, path: Path, every: int):
        self.path, self.every, self.process = path, every, psutil.Process()
        self.seconds: list[float] = []
        self.cpu: list[float] = []
        self.clocks = time.perf_counter(), time.process_time()
        path.unlink(missing_ok=True)

    def record(self, step: int) -> None:
        clocks = time.perf_counter(), time.process_time()
        self.seconds.append(clocks[0] - self.clocks[0])
        self.cpu.append(clocks[1] - self.clocks[1])
        if step % self.every == 0:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(self.line(step)) + "\n")
            self.seconds, self.cpu = [], []
        self.clocks = time.perf_counter(), time.process_time()

    def line(self, step: int) -> dict[str, float]:
        """What is measured now; times are medians since the line before, so that saves and previews do not count."""
        count = self.process.num_handles if sys.platform == "win32" else self.process.num_fds
        return {
            "step": step,
            "resident_mb": self.process.memory_info().rss / 2**20,
            "descriptors": count(),
            "threads": self.process.num_threads(),
            "seconds": statistics.median(self.seconds),
            "cpu_seconds": statistics.median(self.cpu),
            "gpu_mb": torch.cuda.memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0,
        }


def slope_of(steps: Sequence[float], values: Sequence[float]) -> float:
    """Growth per 1,000 steps: the median of the slopes of all pairs of points (Theil-Sen)."""
    x, y = np.asarray(steps, float), np.asarray(values, float)
    first, second = np.triu_indices(len(x), 1)
    return float(np.median((y[second] - y[first]) / (x[second] - x[first]))) * 1000 if len(first) else 0.0


def judge(lines: Sequence[Mapping[str, float]]) -> dict[str, dict[str, object]]:
    """What is measured -> its slope per 1,000 steps, its growth over the run, what is tolerated, and whether it drifts.

    Raises TrainingError for a run that is too short to judge.
    """
    start = max(WARM_UP, WARM_UP_SHARE * max((line["step"] for line in lines), default=0))
    settled = [line for line in lines if line["step"] > start]
    if len(settled) < 5:
        few = f"{len(settled)} lines after step {start:.0f} are too few to judge"
        raise TrainingError(f"{few}: use more --steps, or a smaller --every.")
    steps, verdicts = [line["step"] for line in settled], {}
    for name, tolerance in TOLERANCES.items():
        values = [line[name] for line in settled]
        unit = (statistics.median(values) or 1.0) if tolerance.share else 1.0
        slope = slope_of(steps, values) / unit
        growth = slope * (steps[-1] - steps[0]) / 1000
        drifts = slope > tolerance.slope and growth > tolerance.floor
        verdicts[name] = {"slope": slope, "growth": growth, "drifts": drifts, "tolerated": asdict(tolerance)}
    return verdicts


def soak(folder: Path, steps: int, every: int) -> list[dict[str, float]]:
    """Train for so many steps in `folder`; the lines that were measured."""
    from tests.tiny.families.sd3 import sd3_pipeline
    from tests.tiny.loras import write_random_lora
    from tests.tiny.presets import write_preset

    model = folder / "model"
    sd3_pipeline().save_pretrained(model)
    teachers = {
        name: {"lora": str(write_random_lora(folder / f"{name}.safetensors", model, seed)), "guidance_scale": scale}
        for seed, (name, scale) in enumerate({"one": 1.0, "two": 2.0}.items())
    }
    (folder / "samples.txt").write_text("a red cat --w 16 --h 16 --s 2\n", encoding="utf-8")
    often = max(steps // 40, every)
    rhythm = {"save_every_n_steps": often, "sample_every_n_steps": often, "save_last_n_steps": 2 * often}
    preset = write_preset(
        folder, model, teachers, sample_prompts=str(folder / "samples.txt"), max_train_steps=steps, **KEYS, **rhythm
    )
    meter, record = Meter(folder / "soak.jsonl", every), Journal.record

    def recorded(self: Journal, step: int, *given: object) -> None:
        record(self, step, *given)
        meter.record(step)

    Journal.record = recorded
    try:
        train(["--config", str(preset), "--overwrite"])
    finally:
        Journal.record = record
    return [json.loads(line) for line in meter.path.read_text(encoding="utf-8").splitlines()]


def draw(path: Path, lines: Sequence[Mapping[str, float]]) -> None:
    """The curves, one below the other. Raises TrainingError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        remedy = "pip install matplotlib"
        raise TrainingError(f"the numbers are written, and their picture needs matplotlib: {remedy}.") from None
    figure = Figure((9, 10), layout="constrained")
    axes = figure.subplots(len(TOLERANCES), sharex=True)
    for axis, name in zip(axes, TOLERANCES, strict=True):
        axis.plot([line["step"] for line in lines], [line[name] for line in lines], linewidth=1)
        axis.set_ylabel(name)
    axes[-1].set_xlabel("step")
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=100)


def told(verdicts: Mapping[str, Mapping[str, object]]) -> str:
    """A line for each thing that was measured."""
    rows = [f"{'':14}{'per 1,000 steps':>18}{'tolerated':>12}"]
    for name, one in verdicts.items():
        mark = "DRIFTS" if one["drifts"] else "steady"
        tolerance = TOLERANCES[name]
        rows.append(f"{name:14}{one['slope']:>+18.4f}{tolerance.slope:>12g} {tolerance.unit}: {mark}")
    return "\n".join(rows)


def main(words: Sequence[str]) -> None:
    """Train, watch the process, and write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=whole(STEPS, 300), default=10_000, help="default: %(default)s")
    parser.add_argument("--every", type=whole(STEPS, 10), default=100, help="steps between two lines; default: 100")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "soak")
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    lines = soak(args.out, args.steps, args.every)
    verdicts = judge(lines)
    summary = {
        "steps": args.steps,
        "seconds": round(time.perf_counter() - started, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "measured": verdicts,
    }
    with whole_file(args.out / "summary.json") as part:
        part.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(told(verdicts))
    draw(args.out / "soak.png", lines)
    if drifting := [name for name, one in verdicts.items() if one["drifts"]]:
        raise TrainingError(f"{', '.join(drifting)} grew over {args.steps:,} steps: see {args.out / 'soak.png'}.")
    print(f"steady over {args.steps:,} steps in {summary['seconds']:.0f} s: {args.out / 'summary.json'}")


if __name__ == "__main__":
    sys.exit(run(main))
