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
from danceopd_ext.benchmark.compared_updates import COUNTS, STUDENT, WAYS, Task
from danceopd_ext.benchmark.random_model import TEACHERS
from danceopd_ext.data.load import load_data
from danceopd_ext.demo import LORAS, PIPELINE, PROMPTS
from danceopd_ext.engine.model import find_model
from danceopd_ext.lora.read import read_lora

#: the defaults of a preset
SEED, LEARNING_RATE, MAX_GRAD_NORM = 42, 2e-4, 1.0

Measurement = dict[str, float]  # the keys of ROWS
ROWS = {
    "seconds": "seconds per update", "rollout_forwards": "rollout forwards per update",
    "teacher_forwards": "teacher forwards per update", "student_forwards": "student forwards per update",
    "peak_mb": "peak memory, MiB", "work_mb": "peak memory above the imports, MiB",
    "parameters_mb": "parameters held, MiB", "setup_seconds": "seconds before the first update",
}  # fmt: skip


def task_of(args: argparse.Namespace, accelerator: Accelerator) -> Task:
    """Return two LoRAs as teachers, each with its prompts, and a student that starts as their mean."""
    demo = args.model == "demo"
    place = str(PIPELINE if demo else args.folder / "pipeline")
    model = find_model(place, None, None, device=accelerator.device, precision=args.precision)
    files = {name: LORAS[name] if demo else args.folder / LORAS[name].name for name in TEACHERS}
    teachers = {name: read_lora(str(file), model.layout) for name, file in files.items()}
    data, _ = load_data(
        TEACHERS,
        prompts={name: str(PROMPTS[name]) for name in TEACHERS},
        resolution=args.resolution,
        seed=SEED,
        train_batch_size=args.micro_batch,
        micro_batches=args.batch // args.micro_batch,
    )
    endings = tuple(model.family.lora_targets)
    layers = {layer for layer in model.layout.shapes if layer.endswith(endings)}
    layers = layers.union(*(lora.modules for lora in teachers.values()))
    return Task(model, data, args.updates + 1, teachers, args.rank, sorted(layers), accelerator.autocast)


def measure(args: argparse.Namespace, way: str) -> Measurement:
    """Build one way and run it. The first update is not timed; its gradient is saved in the folder."""
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = False
    imports_mb, began = machine.peak_memory_mb(torch.device(args.device)), time.perf_counter()
    accelerator = Accelerator(cpu=args.device == "cpu", mixed_precision=args.precision)
    with tempfile.TemporaryDirectory(dir=args.folder) as cache:
        made = WAYS[way](task_of(args, accelerator), cache)
        setup_seconds = time.perf_counter() - began
        weights = made.adapters.state_dict(STUDENT)
        optimizer = torch.optim.AdamW(weights.values(), lr=LEARNING_RATE, weight_decay=0.0)
        counts, seconds = [], []
        for step in range(args.updates + 1):
            began = time.perf_counter()
            counts.append(made.update(step))
            if step == 0:
                gradient = {name: p.grad.contiguous() for name, p in weights.items() if p.grad is not None}
                save_file(gradient, args.folder / f"{way}.gradient")
            float(torch.nn.utils.clip_grad_norm_(weights.values(), MAX_GRAD_NORM))  # waits for a GPU
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - began)
    forwards = {key: statistics.mean(own) for key, own in zip(COUNTS, zip(*counts[1:], strict=True), strict=True)}
    held, peak_mb = {p for part in made.held for p in part.parameters()}, machine.peak_memory_mb(accelerator.device)
    memory = {"peak_mb": peak_mb, "work_mb": peak_mb - imports_mb}
    memory["parameters_mb"] = sum(p.numel() * p.element_size() for p in held) / 2**20
    return {"seconds": statistics.mean(seconds[1:]), **forwards, **memory, "setup_seconds": setup_seconds}
