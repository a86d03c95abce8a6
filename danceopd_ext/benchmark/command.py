"""Measures seconds, transformer forwards and memory of an update, ours and the plain way, on this machine.

    python scripts/benchmark.py                                                       # the embedded demo
    python scripts/benchmark.py --model random --family sd3 --size real --updates 3   # SD3.5 medium's size: for a GPU

The plain way: one sample at a time, whole rollouts whatever is queried, a merged copy of the transformer for every
teacher, and text encoders that stay in memory and encode every prompt in every step. Both ways have the same base,
teachers, student, prompts, noise and queries, so their gradients must be equal, which is checked. They take turns, each
in its own process. Random models have text encoders with a few layers, for every --size.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from danceopd_ext import machine
from danceopd_ext.benchmark.compared_updates import WAYS
from danceopd_ext.benchmark.measure import ROWS, Measurement, measure
from danceopd_ext.benchmark.random_model import TRANSFORMERS, make_random
from danceopd_ext.ranges import PIXELS, RANK, SAMPLES, STEPS, Range
from danceopd_ext.subprocesses import environment
from danceopd_ext.whole_numbers import whole

SAME = 1e-4  # a smaller relative difference comes from the order of roundings alone
THREADS = Range(minimum=1, maximum=1024)
SIZES = {"demo": (64, 32), "small": (128, 8), "real": (1024, 128)}  # pixels, rank of the student


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Return the command line, with defaults that depend on the model and the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", choices=("demo", "random"), default="demo")
    add(
        "--family",
        choices=tuple(dict.fromkeys(family for family, _ in TRANSFORMERS)),
        default="sd3",
        help="of the random model",
    )
    add("--size", choices=("small", "real"), default="small", help="of the random model")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--precision", choices=("no", "bf16"), help="default: no (float32) on a CPU, bf16 on a GPU")
    add("--threads", type=whole(THREADS), default=os.cpu_count(), help="of each process")
    add("--batch", type=whole(SAMPLES), default=4, help="samples per update")
    add(
        "--micro-batch",
        type=whole(SAMPLES),
        help="ours: samples in one gradient pass; default: all, or 1 if --size is real",
    )
    add("--resolution", type=whole(PIXELS, 1024), help="pixels; default: 64 (demo), 128 (small), 1024 (real)")
    add("--rank", type=whole(RANK), help="rank of the student; default: 32 (demo), 8 (small), 128 (real)")
    add("--updates", type=whole(STEPS), default=10, help="timed updates per measurement")
    add("--repeats", type=whole(THREADS), default=3, help="measurements per way")
    add("--json", type=Path, metavar="FILE", help="also write all measurements to this file")
    add("--worker", choices=("make", *WAYS), help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    resolution, rank = SIZES[args.size if args.model == "random" else "demo"]
    args.resolution, args.rank = args.resolution or resolution, args.rank or rank
    args.micro_batch = args.micro_batch or (1 if args.model == "random" and args.size == "real" else args.batch)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    args.precision = args.precision or ("bf16" if args.device == "cuda" else "no")
    if args.batch % args.micro_batch:
        parser.error("--batch must be a multiple of --micro-batch")
    return args


def in_its_own_process(words: Sequence[str], args: argparse.Namespace) -> str:
    """Run this program in a new process, so that the peak memory is this work's alone; return its last line."""
    command = [sys.executable, "-m", "danceopd_ext.benchmark", *words]
    own = environment(OMP_NUM_THREADS=str(args.threads))
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=own)
    if done.returncode:
        sys.exit(f"{shlex.join(words)} failed with exit code {done.returncode}:\n{done.stderr[-4000:]}")
    return (done.stdout.splitlines() or [""])[-1]


def take_turns(words: Sequence[str]) -> tuple[dict[str, list[Measurement]], float]:
    """Return way -> its measurements, and the difference of the gradients."""
    args = arguments(words)
    found: dict[str, list[Measurement]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        start = [*words, "--folder", folder, "--worker"]
        if args.model == "random":
            in_its_own_process([*start, "make"], args)
        for i in range(args.repeats):
            for way, measurements in found.items():
                measurements.append(json.loads(in_its_own_process([*start, way], args)))
                print(f"{i + 1}/{args.repeats} {way}: {measurements[-1]['seconds']:.3f} s per update", file=sys.stderr)
        return found, difference(Path(folder))


def difference(folder: Path) -> float:
    """Return |plain - ours| / |plain| of the gradients in the folder."""
    plain, ours = (load_file(folder / f"{way}.gradient") for way in WAYS)
    gap = sum(float((plain[name] - ours[name]).double().square().sum()) for name in plain.keys() | ours.keys())
    return (gap / sum(float(value.double().square().sum()) for value in plain.values())) ** 0.5


def number(value: float) -> str:
    """Return a figure as a person reads it: three decimals below 10, one below 1000."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def table(found: Mapping[str, list[Measurement]]) -> str:
    """Return the medians as Markdown; for the seconds also the range."""
    lines = ["| | plain | ours | plain / ours |", "|---|---:|---:|---:|"]
    for key, title in ROWS.items():
        values = [[measurement[key] for measurement in found[way]] for way in WAYS]
        plain, ours = (statistics.median(v) for v in values)
        spread = [f" ({number(min(v))} to {number(max(v))})" if "seconds" in key else "" for v in values]
        ratio = f"{plain / ours:.2f}" if ours else ""
        lines.append(f"| {title} | {number(plain)}{spread[0]} | {number(ours)}{spread[1]} | {ratio} |")
    return "\n".join(lines)


def main(words: Sequence[str]) -> None:
    """Measure both ways and print the table; `--worker` is one measurement in its own process."""
    args = arguments(words)
    if args.worker:
        print(make_random(args) if args.worker == "make" else json.dumps(measure(args, args.worker)))
        return
    found, error = take_turns(words)
    checked = "of the measured model"
    if args.precision != "no":  # bfloat16 rounds a merged teacher and a teacher with an adapter differently
        checked = "in float32" + (", of a small model" if args.size == "real" else "")
        small = ["--precision", "no", "--size", "small", "--resolution", "0", "--rank", "0", "--micro-batch", "0"]
        _, error = take_turns([*words, *small, "--updates", "1", "--repeats", "1"])
    on = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions().items())
    command = "python scripts/benchmark.py " + shlex.join(words)
    print(f"`{command.strip()}`\n\n{on}; {versions}\n\n{table(found)}\n")
    print(f"Gradients of one update {checked}: relative difference {error:.1e}")
    if args.json:
        facts = {"command": command, "device": on, "versions": machine.versions(), "gradient_difference": error}
        args.json.write_text(json.dumps(facts | {"measurements": found}, indent=2) + "\n", encoding="utf-8")
    if not error < SAME:
        sys.exit(f"The two ways compute different gradients: they differ by more than {SAME:g}.")
