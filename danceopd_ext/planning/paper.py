"""A transformer on paper: the real modules and adapters of a run on the meta device, with few blocks of each kind.

Blocks of one kind are alike, so what a pass needs grows by the same amount with each of them: `count` measures a few
and multiplies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.weights import Lora, LowRank

STUDENT, TEACHER = "student", "teacher_of_this_plan"
#: blocks of each kind that are kept. The first of all may need less than the others, because nothing before it is
#: trained; two more show by how much the need grows.
KEPT = 3


@dataclass(frozen=True)
class Kind:
    """Blocks of one list that are alike. `places`: their indices in the list."""

    list_name: str
    places: tuple[int, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        return self.places[-KEPT:]

    @property
    def names(self) -> list[str]:
        """The names of the blocks that are kept, in the order in which they compute."""
        return [f"{self.list_name}.{place}" for place in self.kept]

    @property
    def more(self) -> int:
        """How many blocks are not kept."""
        return len(self.places) - len(self.kept)


def kinds_of(transformer: torch.nn.Module) -> list[Kind]:
    """Return the kinds of blocks in a transformer's lists of modules."""
    found: dict[tuple, list[int]] = {}
    for name, blocks in transformer.named_children():
        if isinstance(blocks, torch.nn.ModuleList):
            for place, block in enumerate(blocks):
                shape = tuple((n, tuple(p.shape)) for n, p in block.named_parameters())
                found.setdefault((name, shape), []).append(place)
    return [Kind(name, tuple(places)) for (name, shape), places in found.items() if shape]


class Paper:
    """The transformer with the adapters of a run, cut to at most KEPT blocks of each kind.

    `student` and `teacher`: layer -> rank, in the names of the whole transformer. The transformer, on torch's meta
    device, is changed. `blocks`: name in the whole transformer -> block.
    """

    def __init__(self, transformer: torch.nn.Module, student: Mapping[str, int], teacher: Mapping[str, int]):
        self.transformer, self.kinds = transformer, kinds_of(transformer)
        self.blocks: dict[str, torch.nn.Module] = {}
        self._kept: dict[str, list[int]] = {}
        for name in {kind.list_name for kind in self.kinds}:
            places = sorted(place for kind in self.kinds if kind.list_name == name for place in kind.kept)
            blocks = [getattr(transformer, name)[place] for place in places]
            setattr(transformer, name, torch.nn.ModuleList(blocks))
            self._kept[name] = places
            self.blocks |= {f"{name}.{place}": block for place, block in zip(places, blocks, strict=True)}
        self.adapters = self._adapted(student, teacher)

    def _adapted(self, student: Mapping[str, int], teacher: Mapping[str, int]) -> Adapters:
        adapters = Adapters(self.transformer)
        with torch.device("meta"):
            if own := self._here(teacher):
                shapes = {layer: self.transformer.get_submodule(layer).weight.shape for layer in own}
                lora = {
                    layer: LowRank(torch.empty(rank, shapes[layer][1]), torch.empty(shapes[layer][0], rank))
                    for layer, rank in own.items()
                }
                adapters.add(TEACHER, Lora(lora))
            if own := self._here(student):
                rank = max(own.values())
                adapters.add_student(STUDENT, rank, rank, list(own))
        return adapters

    def _here(self, layers: Mapping[str, int]) -> dict[str, int]:
        """These layers as they are called in the cut transformer."""
        found = {}
        for layer, rank in layers.items():
            head, _, rest = layer.partition(".")
            number, _, inner = rest.partition(".")
            if head not in self._kept or not number.isdecimal():
                found[layer] = rank
            elif int(number) in self._kept[head]:
                found[f"{head}.{self._kept[head].index(int(number))}.{inner}"] = rank
        return found

    def give_gradients(self) -> None:
        """Give the student gradients, as it has in every micro-batch of a step but the first."""
        for weight in self.transformer.parameters():
            if weight.requires_grad:
                weight.grad = torch.empty_like(weight)
