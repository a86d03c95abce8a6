"""Tiny models with adapters whose blocks can be swapped, and a table of what is where when something computes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache, partial

import torch

from danceopd_ext.engine.block_swap import BlockSwap, travelling
from danceopd_ext.engine.fields import AdapterField
from danceopd_ext.engine.movers import PlainMover
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.method import rollout
from danceopd_ext.models.conditions import TextConditions
from danceopd_ext.models.registry import FAMILIES
from tests.tiny.calls import conditions, noise_for
from tests.tiny.families.parts import randomise
from tests.tiny.families.z_image import z_image_transformer
from tests.tiny.loras import random_lora
from tests.tiny.pipelines import ALL

CPU = torch.device("cpu")
#: of `deep_transformer`: 5 layers and a block of each refiner
BLOCKS = 7


class Poison(PlainMover):
    """Fills the memory of a block that goes away with NaN instead of freeing it: a view that someone kept is wrong."""

    def free(self, there):
        there.fill_(255)


class Table:
    """One row for each layer of a swapped block that computes: (block, whether it is here, blocks that are here)."""

    def __init__(self, swap: BlockSwap, blocks: list[torch.nn.Module]):
        self.swap, self.rows = swap, []
        for number, block in enumerate(blocks):
            for module in block.modules():
                if any(True for _ in module.parameters(recurse=False)):
                    module.register_forward_pre_hook(partial(self._seen, number))

    def _seen(self, number, module, args):
        shown = all(place.tensor.numel() for place in self.swap.blocks[number].places)
        self.rows.append((number, number in self.swap.present and shown, len(self.swap.present)))


class World:
    """A tiny model with a student and a teacher on all of its blocks, and optionally with some blocks swapped."""

    def __init__(
        self, name: str, transformer: torch.nn.Module, swapped: int = 0, change: Callable | None = None, mover=None
    ):
        """change: what is done to the transformer once its adapters are on it."""
        self.family = FAMILIES[name]
        self.transformer, targets = transformer, self.family.lora_targets
        layout = self.family.layout(transformer)
        if change:
            change(transformer)
        self.adapters = Adapters(transformer)
        self.adapters.add("teacher", random_lora(layout, targets, seed=1))
        layers = [layer for layer in layout.shapes if layer.endswith(targets)]
        self.adapters.add_student("student", 4, 4.0, layers, init=random_lora(layout, targets, seed=2))
        transformer.enable_gradient_checkpointing()
        self.blocks = self.family.repeated_blocks(transformer)
        self.swap = self.table = None
        if swapped:
            self.swap = BlockSwap(self.blocks, swapped, CPU, mover or Poison())
            self.table = Table(self.swap, [self.blocks[i] for i in travelling(len(self.blocks), swapped)])
        self.condition, self.noise = asked(name)
        names = ("student", "teacher", None)
        self.fields = {who: AdapterField(self.family, self.adapters, who, nullcontext) for who in names}

    def step(self) -> list[torch.Tensor]:
        """What a step and a preview compute: rollout, teacher, base, and the gradients of two micro-batches."""
        queries, sigma = torch.tensor([[1, 2], [0, 3]]), torch.tensor([0.75, 0.5])
        states = rollout(self.fields["student"], self.noise, torch.linspace(1, 0, 5), self.condition, queries)
        with torch.no_grad():
            found = [states, *(self.fields[who](states[:, 0], sigma, self.condition) for who in ("teacher", None))]
        for _ in range(2):
            (self.fields["student"](states[:, 1], sigma, self.condition) - found[1]).square().mean().backward()
        parameters = [p for p in self.adapters.student_parameters() if p.grad is not None]
        assert sum(bool(p.grad.abs().max() > 0) for p in parameters) > len(parameters) / 2
        found += [p.grad.clone() for p in parameters]
        for p in parameters:
            p.grad = None
        return found


@lru_cache
def asked(name: str) -> tuple[TextConditions, torch.Tensor]:
    """Two prompts of different lengths, and noise."""
    family, pipeline = FAMILIES[name], ALL[name](seed=3)
    texts = conditions(family, pipeline, ["a red cat", "the big blue dog on a tree in the river"])
    return texts, noise_for(family, pipeline, (32, 32), samples=2)


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def deep_transformer() -> torch.nn.Module:
    return z_image_transformer(3, layers=5, dim=32)


def transformer_of(name: str) -> torch.nn.Module:
    """The tiny transformer of a family, with at least three blocks."""
    transformer = ALL[name](seed=3).transformer
    if len(FAMILIES[name].repeated_blocks(transformer)) > 2:
        return transformer
    deeper = type(transformer).from_config({**transformer.config, "num_layers": 3})
    randomise(deeper, 3, scale=0.1)
    return deeper.eval()
