"""Trains a few steps on a random model of a real model's size, and reports memory and seconds per step.

    python scripts/real_size.py --family z_image --teachers lora,lokr --steps 4
    python scripts/real_size.py --family z_image --size small --steps 2 -- --gradient_checkpointing false

The trainer is the real one, with a preset as a creator would write it; arguments after `--` are passed to it. Only the
weights are random: memory and speed do not depend on their values. The model stays in --folder for the next
run. Teachers: `lora` (of the student's rank) and `lokr` (LyCORIS' Kronecker form at full rank, as ai-toolkit writes).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from danceopd_ext.benchmark.command import arguments as benchmark_arguments
from danceopd_ext.benchmark.random_model import TRANSFORMERS, make_random
from danceopd_ext.config.toml_text import toml_text
from danceopd_ext.demo import LORAS, PROMPTS
from danceopd_ext.ranges import PIXELS, RANK, STEPS
from danceopd_ext.subprocesses import ROOT, environment
from danceopd_ext.whole_numbers import whole

#: the larger factor of ai-toolkit's default: w1 is FACTOR x FACTOR, w2 takes the rest
FACTOR = 8


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line; argparse ends the program if it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--family", choices=tuple(dict.fromkeys(family for family, _ in TRANSFORMERS)), default="z_image")
    add("--size", choices=("small", "real"), default="real")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="device on which the random model is made")
    add("--teachers", default="lora", help="lora and lokr, separated by commas")
    add("--steps", type=whole(STEPS), default=4, help="steps to train; the first is not measured")
    add("--resolution", type=whole(PIXELS, 1024), help="pixels; default: 1024, small: 128")
    add("--rank", type=whole(RANK), help="rank of the student and its LoRA teacher; default: 32, small: 8")
    add("--folder", type=Path, help="folder of the random model; default: a temporary folder")
    add("rest", nargs="*", help="arguments for the trainer, after --")
    args = parser.parse_args(words)
    args.resolution = args.resolution or (1024 if args.size == "real" else 128)
    args.rank = args.rank or (32 if args.size == "real" else 8)
    if args.steps < 2 or set(args.teachers.split(",")) - {"lora", "lokr"}:
        parser.error(
            "--steps must be 2 or more (the first is not measured), and --teachers takes lora and lokr, "
            "separated by commas"
        )
    return args


def make_model(args: argparse.Namespace, folder: Path) -> None:
    """Write the random pipeline and its LoRA teacher, unless they exist."""
    if not (folder / LORAS["checkered"].name).is_file():
        words = ["--model", "random", "--family", args.family, "--size", args.size, "--device", args.device]
        make_random(benchmark_arguments([*words, "--rank", str(args.rank), "--folder", str(folder)]))


def write_lokr(folder: Path) -> Path:
    """Write a LoKr of full rank on the layers of the LoRA teacher."""
    tensors: dict[str, torch.Tensor] = {}
    with safe_open(folder / LORAS["hollow"].name, "pt") as lora:
        for key in lora.keys():  # noqa: SIM118 - a safetensors file is no mapping
            layer, end, _ = key.partition(".lora_A.")
            if not end:
                continue
            inputs = lora.get_slice(key).get_shape()[1]
            outputs = lora.get_slice(key.replace(".lora_A.", ".lora_B.")).get_shape()[0]
            tensors[f"{layer}.lokr_w1"] = torch.randn(FACTOR, FACTOR)
            tensors[f"{layer}.lokr_w2"] = torch.randn(outputs // FACTOR, inputs // FACTOR) * 0.02 / inputs**0.5
    path = folder / "lokr.safetensors"
    save_file({key: value.bfloat16() for key, value in tensors.items()}, path)
    return path


def write_preset(args: argparse.Namespace, folder: Path) -> Path:
    """Write a preset that trains the random model in `folder`, and return its path."""
    files = {"lora": folder / LORAS["hollow"].name, "lokr": folder / "lokr.safetensors"}
    values = {
        "pretrained_model_name_or_path": str(folder / "pipeline"), "resolution": args.resolution,
        "network_dim": args.rank, "network_alpha": args.rank, "max_train_steps": args.steps,
        "gradient_checkpointing": True, "output_dir": str(folder / "output"),
    }  # fmt: skip
    lines = [f"{key} = {toml_text(value)}" for key, value in values.items()]
    for name in args.teachers.split(","):
        lines += [f"[danceopd.teachers.{name}]", f"lora = {toml_text(str(files[name]))}"]
    lines += ["[danceopd.prompts]"]
    lines += [f"{name} = {toml_text(str(PROMPTS['hollow']))}" for name in args.teachers.split(",")]
    path = folder / "preset.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def report(log: Path) -> str:
    """Return medians and peak memory of the steps after the first, from the log."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [row for row in rows if "seconds" in row][1:]
    seconds, forwards = (statistics.median(row[key] for row in steps) for key in ("seconds", "forwards"))
    each = statistics.median(row["seconds"] / row["forwards"] for row in steps)
    return (
        f"{len(steps)} steps: {seconds:.2f} s a step, {forwards:.0f} forwards a step ({each:.3f} s each), "
        f"peak memory {max(row['peak_memory_mb'] for row in steps) / 1024:.2f} GiB"
    )


def main(words: Sequence[str]) -> None:
    """Make the model, train, and print the cost of a step. Exits with the trainer's code if that is not 0."""
    args = arguments(words)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        make_model(args, folder)
        write_lokr(folder)
        command = [sys.executable, str(ROOT / "train_danceopd.py"), "--config", str(write_preset(args, folder))]
        code = subprocess.run([*command, *args.rest], check=False, env=environment()).returncode
        if code != 0:
            sys.exit(code)
        print(report(folder / "output" / "danceopd_lora.log.jsonl"))
