"""Builds one way of making an update, runs it, and measures seconds, forwards and memory."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from danceopd_ext import machine
from danceopd_ext.benchmark.random_model import TEACHERS
from danceopd_ext.benchmark.ways import COUNTS, WAYS
from danceopd_ext.config.load import Preset, build_preset
from danceopd_ext.demo import LORAS, PIPELINE, PROMPTS
from danceopd_ext.toolkits.native.prepare import STUDENT, prepare

Measurement = dict[str, float]  # the keys of ROWS
ROWS = {
    "seconds": "seconds per update", "rollout_forwards": "rollout forwards per update",
    "teacher_forwards": "teacher forwards per update", "student_forwards": "student forwards per update",
    "peak_mb": "peak memory, MiB", "work_mb": "peak memory above the imports, MiB",
    "parameters_mb": "parameters held, MiB", "setup_seconds": "seconds before the first update",
}  # fmt: skip


def preset_of(args: argparse.Namespace) -> Preset:
    """The run as a creator would write it; the student starts as the mean of its teachers, not as the base."""
    demo = args.model == "demo"
    return build_preset({
        "pretrained_model_name_or_path": str(PIPELINE if demo else args.folder / "pipeline"),
        "resolution": args.resolution, "network_dim": args.rank, "optimizer_type": "AdamW",
        "max_train_steps": args.updates + 1, "train_batch_size": args.micro_batch,
        "gradient_accumulation_steps": args.batch // args.micro_batch, "mixed_precision": args.precision,
        "output_dir": str(args.folder), "student_init": "merge_average",
        "teachers": {
            name: {"lora": str(LORAS[name] if demo else args.folder / LORAS[name].name)} for name in TEACHERS
        },
        "prompts": {name: str(PROMPTS[name]) for name in TEACHERS},
    }, args.folder)  # fmt: skip


def measure(args: argparse.Namespace, way: str) -> Measurement:
    """Build one way and run it. The first update is not timed, and leaves its gradient in the folder."""
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = False
    imports_mb, began = machine.peak_memory_mb(torch.device(args.device)), time.perf_counter()
    preset, accelerator = preset_of(args), Accelerator(cpu=args.device == "cpu", mixed_precision=args.precision)
    with tempfile.TemporaryDirectory(dir=args.folder) as cache:
        made = WAYS[way](prepare(preset, accelerator), accelerator, cache)
        setup_seconds = time.perf_counter() - began
        weights = made.adapters.state_dict(STUDENT)
        optimizer = torch.optim.AdamW(weights.values(), lr=preset.optimizer.learning_rate, weight_decay=0.0)
        counts, seconds = [], []
        for step in range(args.updates + 1):
            began = time.perf_counter()
            counts.append(made.update(step))
            if step == 0:
                gradient = {name: p.grad.contiguous() for name, p in weights.items() if p.grad is not None}
                save_file(gradient, args.folder / f"{way}.gradient")
            float(torch.nn.utils.clip_grad_norm_(weights.values(), preset.optimizer.max_grad_norm))  # waits for a GPU
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - began)
    forwards = {key: statistics.mean(own) for key, own in zip(COUNTS, zip(*counts[1:], strict=True), strict=True)}
    held, peak_mb = {p for part in made.held for p in part.parameters()}, machine.peak_memory_mb(accelerator.device)
    memory = {"peak_mb": peak_mb, "work_mb": peak_mb - imports_mb}
    memory["parameters_mb"] = sum(p.numel() * p.element_size() for p in held) / 2**20
    return {"seconds": statistics.mean(seconds[1:]), **forwards, **memory, "setup_seconds": setup_seconds}
