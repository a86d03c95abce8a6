"""Applies DoRA changes, which also set the length of each row or column of the changed weight.

With D the change, m the magnitude and |.| the length of each row (or column), the weight W becomes

    W + strength * ((W + D) * m / |W + D| - W)

so the strength interpolates between the base and the finished DoRA, as in ComfyUI; D keeps its own scale. Files differ
in the divisor, and each kind is applied as in the program that reads it: ComfyUI divides the rows of a
`dora_scale` file by the base's own length |W|, its columns by |W + D|; PEFT and ai-toolkit, which have rows only, by
|W + D|. Paper: Liu et al., 2024, arXiv 2402.09353.

Shape suffixes: O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from danceopd_ext.lora.weights import Chain, Change, Linear, LowRank, chain

#: layer name -> the base's weight, [O, I]
Weights = Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class Dora(Change):
    """`change` with a magnitude: one length per output ("out", [O]) or per input ("in", [I]) of the changed weight.

    `by_base`: the lengths are divided by those of the base's weight instead of the changed one's. `fused`: the layers
    whose outputs share the columns, where the file has them as one layer. `ratio`: magnitude over length, once the
    base is known (`settle`).
    """

    change: Change
    magnitude: torch.Tensor
    axis: Literal["out", "in"] = "out"
    by_base: bool = False
    strength: float = 1.0
    fused: tuple[str, ...] = ()
    ratio: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.change.shape

    @property
    def rank(self) -> int:
        """Return the layer's: scaled rows or columns are a change of full rank."""
        return min(self.shape)

    @property
    def needs_base(self) -> bool:
        return True

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (*self.change.tensors(), self.magnitude, *(() if self.ratio is None else (self.ratio,)))

    def numbers(self) -> tuple[object, ...]:
        return (*self.change.numbers(), self.axis, self.by_base, self.strength)

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Dora:
        ratio = None if self.ratio is None else function(self.ratio)
        return replace(self, change=self.change.mapped(function), magnitude=function(self.magnitude), ratio=ratio)

    def scaled(self, strength: float) -> Dora:
        return replace(self, strength=self.strength * strength)

    def delta(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        raise TypeError("a DoRA's change of the weight depends on the base")

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        raise TypeError("a DoRA's output depends on the base's")

    def to_low_rank(self) -> LowRank:
        raise TypeError("a DoRA's change of the weight depends on the base")

    def rows(self, start: int, stop: int) -> Dora:
        if self.axis == "in":
            return replace(self, change=self.change.rows(start, stop))
        return replace(self, change=self.change.rows(start, stop), magnitude=self.magnitude[start:stop])

    def is_zero(self) -> bool:
        return self.strength == 0

    def squares(self, weight_OI: torch.Tensor) -> torch.Tensor:
        """Return the squared lengths by which the magnitudes are divided, [O] or [I]."""
        measured = weight_OI if self.by_base else self.change.on_weight(weight_OI)
        return measured.square().sum(dim=1 if self.axis == "out" else 0)

    def settled(self, squares: torch.Tensor) -> Dora:
        """Return the change ready to be applied, given the squared lengths."""
        length = squares.sqrt() + torch.finfo(torch.float32).eps
        return replace(self, ratio=self.magnitude.to(length.device, length.dtype) / length)

    def on_weight(self, weight_OI: torch.Tensor) -> torch.Tensor:
        ratio = self.ratio.to(weight_OI.dtype)
        whole = self.change.on_weight(weight_OI) * (ratio.unsqueeze(1) if self.axis == "out" else ratio)
        return weight_OI + self.strength * (whole - weight_OI)

    def on_output(self, linear: Linear, x: torch.Tensor) -> torch.Tensor:
        """Do the same on outputs: no weight is computed, and a quantised base is used as it is."""
        inner, extra = x.to(self.change.tensors()[0].dtype), self.strength * (self.ratio - 1)
        if self.axis == "in":
            output = linear(x + (x * extra).to(x.dtype))
            added = self.change.apply((inner * self.ratio).to(inner.dtype))
            return output + (added * self.strength).to(output.dtype)
        output = linear(x)
        return output + (output * extra + self.change.apply(inner) * (self.ratio * self.strength)).to(output.dtype)


def settle(modules: Mapping[str, Change], weight_of: Weights) -> dict[str, Change]:
    """Return the changes with every DoRA's ratio computed from the base's weights, one layer at a time.

    `weight_of`: layer name -> its weight, which is used in float32 and not kept. Columns of a layer that the file has
    fused (q, k and v in one) are as long as in the fused weight, so their parts are measured together.
    """
    return {
        name: chain([ready for ready, _ in _walk(name, parts_of(change), modules, weight_of)])
        if change.needs_base
        else change
        for name, change in modules.items()
    }


def parts_of(change: Change) -> tuple[Change, ...]:
    """Return the changes of a chain, in order; a change that is not a chain is its only part."""
    return change.parts if isinstance(change, Chain) else (change,)


def _walk(
    name: str, parts: Sequence[Change], modules: Mapping[str, Change], weight_of: Weights
) -> Iterator[tuple[Change, torch.Tensor]]:
    """Settle each part with the weight that the earlier parts leave."""
    weight = weight_of(name).detach().float()
    for part in parts:
        ready = _beside(part, weight)
        if isinstance(ready, Dora):
            squares = ready.squares(weight)
            for other in part.fused if part.axis == "in" else ():
                if other != name:
                    squares = squares + _squares_of_sibling(part, other, modules, weight_of)
            ready = ready.settled(squares)
        weight = ready.on_weight(weight)
        yield ready, weight


def _squares_of_sibling(part: Dora, name: str, modules: Mapping[str, Change], weight_of: Weights) -> torch.Tensor:
    """Return what layer `name` adds to the columns of the fused layer of `part`; its parts share the magnitude."""
    parts = parts_of(modules[name])
    place = next(i for i, other in enumerate(parts) if isinstance(other, Dora) and other.magnitude is part.magnitude)
    weight = weight_of(name).detach().float()
    for _, left in _walk(name, parts[:place], modules, weight_of):
        weight = left
    return _beside(parts[place], weight).squares(weight)


def _beside(change: Change, weight: torch.Tensor) -> Change:
    return change.mapped(lambda tensor: tensor.to(weight.device, weight.dtype))
