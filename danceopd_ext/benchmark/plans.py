"""Compares plans with counts that share no formula with them: `python scripts/compare_plans.py`.

A counted run holds the whole transformer, quantised as the trainer does and with its real block swap, the adapters and
an optimizer's states as fake tensors, and makes the passes of a step: a rollout, a forward of a teacher, and two pieces
of the gradient pass. Every storage that lives is counted. A plan counts a few blocks and multiplies.
"""

from __future__ import annotations

import argparse
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from danceopd_ext.config import load_preset
from danceopd_ext.engine.block_swap import BlockSwap
from danceopd_ext.engine.fields import AdapterField
from danceopd_ext.engine.movers import PlainMover
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.method import velocity_mse
from danceopd_ext.models.conditions import TextConditions
from danceopd_ext.models.held_linear import PACKINGS, HeldLinear, place
from danceopd_ext.models.layout import is_outer
from danceopd_ext.planning.of_preset import work_of_preset
from danceopd_ext.planning.phases import GIB, Memory
from danceopd_ext.planning.work import Work

STUDENT = "student"
RANK = 32


@dataclass(frozen=True)
class Case:
    """A model on the hub, and keys of the preset."""

    hub: str
    resolution: int = 1024
    quantize: str | None = None
    blocks_to_swap: int = 0

    def __str__(self) -> str:
        swap = f"{self.blocks_to_swap} swapped" if self.blocks_to_swap else "-"
        return f"{self.hub.rpartition('/')[2]} | {self.resolution} | {self.quantize or 'bf16'} | {swap}"


CASES = [
    Case("Tongyi-MAI/Z-Image"),
    Case("Tongyi-MAI/Z-Image", 768, "int8"),
    Case("Tongyi-MAI/Z-Image", 1024, "fp8", 14),
    Case("stabilityai/stable-diffusion-3.5-medium"),
    Case("stabilityai/stable-diffusion-3.5-medium", 512, "int8"),
    Case("stabilityai/stable-diffusion-3.5-large", 1024, "fp8", 12),
    Case("black-forest-labs/FLUX.2-klein-base-4B"),
    Case("black-forest-labs/FLUX.2-klein-base-9B", 768, "int8", 8),
    Case("black-forest-labs/FLUX.1-dev", 768, "int8"),
    Case("black-forest-labs/FLUX.1-dev", 1024, "int8", 30),
    Case("Qwen/Qwen-Image", 1024, "int8", 40),
    Case("black-forest-labs/FLUX.2-dev", 1024, "int8", 40),
]


class Living(TorchDispatchMode):
    """Counts the storages that live, by weak references to them. `most`: at the highest."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.most = self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.see(tensor)
        return result

    def see(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage from now until it is gone."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.change(storage.nbytes())
            weakref.finalize(storage, self._gone, storage._cdata)

    def change(self, size: int) -> None:
        """Count bytes that came or went."""
        self.total += size
        self.most = max(self.most, self.total)

    def _gone(self, key: int) -> None:
        self.total -= self.sizes.pop(key, 0)


class CountedMover(PlainMover):
    """Brings blocks as the trainer does and tells how many bytes are on the device; copies nothing."""

    def __init__(self, living: Living) -> None:
        self.living = living

    def keep(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device="meta")

    def start(self, there: torch.Tensor, here: torch.Tensor) -> None:
        self.living.change(len(here))

    def free(self, there: torch.Tensor) -> None:
        self.living.change(-len(there))


def counted(work: Work) -> int:
    """Return the most bytes that live on the GPU in a step of the run."""
    transformer, living = _whole(work), Living()
    adapters = _adapted(transformer, work)
    transformer.enable_gradient_checkpointing()
    away = _swapped_out(transformer, work, living)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _make_fake(transformer)
        for tensor in (*transformer.parameters(), *transformer.buffers()):
            living.see(tensor)
        living.change(-away)
        living.most = living.total  # the whole base was never on the device
        states = [torch.empty(2 * weight.numel(), dtype=torch.uint8) for weight in adapters.student_parameters()]
        for state in states:
            living.see(state)
        _step(work, adapters, living)
    return living.most


def _whole(work: Work) -> torch.nn.Module:
    """The transformer in bf16 on the meta device, quantised by the trainer's own formats."""
    transformer = torch.nn.Module.to(work.blueprint.transformer(), work.dtype).requires_grad_(False)
    form = PACKINGS.get(work.preset.quantize or "")
    for name, layer in list(transformer.named_modules()) if form else []:
        if isinstance(layer, torch.nn.Linear) and not is_outer(name):
            parts = form.pack(layer.weight)
            place(transformer, name, HeldLinear(form, parts, tuple(layer.weight.shape), layer.bias, work.dtype))
    return transformer


def _adapted(transformer: torch.nn.Module, work: Work) -> Adapters:
    adapters, shapes = Adapters(transformer), work.blueprint.shapes
    with torch.device("meta"):
        for name, teacher in work.teachers.items():
            sides = {layer: (*shapes[layer], rank) for layer, rank in teacher.layers.items()}
            lora = {n: LowRank(torch.empty(r, i), torch.empty(o, r)) for n, (o, i, r) in sides.items()}
            adapters.add(f"teacher_{name}", Lora(lora))
        adapters.add_student(STUDENT, RANK, RANK, list(work.student))
    return adapters


def _swapped_out(transformer: torch.nn.Module, work: Work, living: Living) -> int:
    """Let the trainer's block swap move blocks; return the bytes of those that travel, which are all away."""
    if not work.preset.training.blocks_to_swap:
        return 0
    blocks = work.blueprint.family.repeated_blocks(transformer)
    before = living.total
    swap = BlockSwap(blocks, work.preset.training.blocks_to_swap, torch.device("meta"), CountedMover(living))
    living.change(before - living.total)
    for block in swap.blocks:
        block.read()  # the fake weights are made in full; what is counted as away is taken off again
        block._point = lambda where: None
    return sum(block.size for block in swap.blocks)


def _make_fake(module: torch.nn.Module) -> None:
    """Fake CPU tensors in place of those on the meta device; shared ones stay shared."""
    made: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype)
                    is_weight = isinstance(tensor, torch.nn.Parameter)
                    made[id(tensor)] = torch.nn.Parameter(fake, tensor.requires_grad) if is_weight else fake
                held[name] = made[id(tensor)]


def _step(work: Work, adapters: Adapters, living: Living) -> None:
    """A rollout of all samples, a forward of the first teacher, two pieces of the gradient pass."""
    family = work.blueprint.family
    inputs = Memory(work).counts.inputs(work)
    student = AdapterField(family, adapters, STUDENT, lambda: torch.autocast("cpu", torch.bfloat16))
    teacher = AdapterField(family, adapters, adapters.names[0], lambda: torch.autocast("cpu", torch.bfloat16))
    with living:
        items = [
            {name: torch.empty(shape, dtype=work.dtype) for name, shape in inputs.condition.items()}
            for _ in range(work.samples)
        ]
        condition = TextConditions(items, {})
        latents, sigma = torch.empty(work.samples, *inputs.latents), torch.full((work.samples,), 0.5)
        with torch.no_grad():
            student(latents, sigma, condition)
            targets = teacher(latents, sigma, condition)
        for row in ([0], [1]):
            velocity = student(latents[row], sigma[row], condition.select(row))
            velocity_mse(velocity, targets[row]).mean().backward()


def planned_case(case: Case) -> Work:
    """Return the work of a preset with two LoRA teachers and this case's keys."""
    keys = [f'pretrained_model_name_or_path = "{case.hub}"', f"resolution = {case.resolution}"]
    keys += [f"network_dim = {RANK}", "gradient_checkpointing = true", 'optimizer_type = "AdamW8bit"']
    keys += [f'quantize = "{case.quantize}"'] if case.quantize else []
    keys += [f"blocks_to_swap = {case.blocks_to_swap}"] if case.blocks_to_swap else []
    teachers = [f'[danceopd.teachers.{name}]\nlora = "{name}.safetensors"' for name in "ab"]
    prompts = ["[danceopd.prompts]", *(f'{name} = "{name}.txt"' for name in "ab")]
    with tempfile.TemporaryDirectory() as folder:
        preset = Path(folder) / "preset.toml"
        preset.write_text("\n".join(["[model]", *keys, *teachers, *prompts]), encoding="utf-8")
        return work_of_preset(load_preset(preset))


def compared(case: Case) -> tuple[float, float]:
    """Return the peak that is planned and the one that is counted, in GiB."""
    work = planned_case(case)
    return Memory(work).peak.total / GIB, counted(work) / GIB


def main(argv: Sequence[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="also write the table to this Markdown file")
    parser.add_argument("--cases", type=int, nargs="*", help="numbers of cases, from 1; default: all")
    arguments = parser.parse_args(argv)
    lines = ["| model | pixels | weights | blocks | planned | counted | off by |", "|---|---|---|---|---|---|---|"]
    print("\n".join(lines))
    for number, case in enumerate(CASES, 1):
        if arguments.cases and number not in arguments.cases:
            continue
        plan, count = compared(case)
        lines.append(f"| {case} | {plan:.2f} GiB | {count:.2f} GiB | {plan / count - 1:+.1%} |")
        print(lines[-1], flush=True)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text("\n".join([*lines, ""]), encoding="utf-8")
