"""Defines the in-memory forms of a LoRA, whatever file it came from.

A layer's change keeps the form of its file: two small factors here, Kronecker and Hadamard products in `lycoris`, a
magnitude in `dora`. The rest of the package uses only the methods of `Change`.

Shape suffixes: I inputs and O outputs of a linear layer, R rank.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

#: x -> W x, the layer's output without its bias
Linear = Callable[[torch.Tensor], torch.Tensor]
#: numbers of a piece of `in_pieces`
_PIECE = 2**24


class Change(ABC):
    """The change of one linear layer's weight; alpha and strength are folded in."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Return (outputs, inputs) of its layer."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """Return the rank of `to_low_rank`."""

    @property
    def needs_base(self) -> bool:
        """Return whether the change depends on the base's weights (DoRA), so that it has no `delta` of its own."""
        return False

    @abstractmethod
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return the tensors that it consists of, in a fixed order."""

    def numbers(self) -> tuple[object, ...]:
        """Return what else it consists of, in a fixed order."""
        return ()

    @abstractmethod
    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Change:
        """Return the same change with `function` applied to each of `tensors`: another dtype, another device."""

    @abstractmethod
    def scaled(self, strength: float) -> Change:
        """Return the change at `strength`."""

    @abstractmethod
    def delta(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return the whole weight change in `dtype`, [O, I]. Raises TypeError if it needs the base."""

    @abstractmethod
    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Return the change times `x` [..., I], in the dtype of the tensors: [..., O]."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> Change:
        """Return the change of the outputs from `start` to `stop`, exactly."""

    @abstractmethod
    def to_low_rank(self) -> LowRank:
        """Return the same change as two float32 factors of rank `rank`, which may be larger than the layer."""

    def on_weight(self, weight_OI: torch.Tensor) -> torch.Tensor:
        """Return the changed weight, in the dtype of `weight_OI`."""
        return weight_OI + self.delta(weight_OI.dtype).to(weight_OI.device)

    def on_output(self, linear: Linear, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the changed weight for `x` [..., I], given the output of the weight itself."""
        output = linear(x)
        return output + self.apply(x.to(self.tensors()[0].dtype)).to(output.dtype)

    def is_zero(self) -> bool:
        """Return whether it changes nothing."""
        return not any(bool(piece.any()) for piece in in_pieces(self))


def in_pieces(change: Change) -> Iterator[torch.Tensor]:
    """Yield the whole weight change in float32, a few rows at a time: [outputs of the piece, I]."""
    outputs, inputs = change.shape
    step = max(1, _PIECE // max(1, inputs))
    for start in range(0, outputs, step):
        yield change.rows(start, min(start + step, outputs)).delta()


@dataclass(frozen=True)
class LowRank(Change):
    """`delta_OI = up_OR @ down_RI`."""

    down_RI: torch.Tensor
    up_OR: torch.Tensor

    @property
    def rank(self) -> int:
        return self.down_RI.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self.up_OR.shape[0], self.down_RI.shape[1]

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.down_RI, self.up_OR

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> LowRank:
        return LowRank(function(self.down_RI), function(self.up_OR))

    def is_zero(self) -> bool:
        # every rank is zero in its column of up or in its row of down
        return not bool((self.up_OR.ne(0).any(0) & self.down_RI.ne(0).any(1)).any())

    def scaled(self, strength: float) -> LowRank:
        return LowRank(self.down_RI, self.up_OR * strength)

    def delta(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return self.up_OR.to(dtype) @ self.down_RI.to(dtype)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(torch.nn.functional.linear(x, self.down_RI), self.up_OR)

    def rows(self, start: int, stop: int) -> LowRank:
        return LowRank(self.down_RI, self.up_OR[start:stop])

    def to_low_rank(self) -> LowRank:
        return self.mapped(torch.Tensor.float)


@dataclass(frozen=True)
class _Several(Change):
    """What a change that is made of others does part by part."""

    parts: tuple[Change, ...]

    @property
    def rank(self) -> int:
        return sum(part.rank for part in self.parts)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(tensor for part in self.parts for tensor in part.tensors())

    def numbers(self) -> tuple[object, ...]:
        return tuple(part.numbers() for part in self.parts)

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> _Several:
        return replace(self, parts=tuple(part.mapped(function) for part in self.parts))

    def scaled(self, strength: float) -> _Several:
        return replace(self, parts=tuple(part.scaled(strength) for part in self.parts))


@dataclass(frozen=True)
class Stacked(_Several):
    """Changes whose outputs stand one after another: their deltas stacked."""

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    def delta(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.cat([part.delta(dtype) for part in self.parts])

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.apply(x) for part in self.parts], dim=-1)

    def rows(self, start: int, stop: int) -> Change:
        found, first = [], 0
        for part in self.parts:
            own = max(start - first, 0), min(stop - first, part.shape[0])
            if own[0] < own[1]:
                found.append(part.rows(*own))
            first += part.shape[0]
        return stacked(found)

    def to_low_rank(self) -> LowRank:
        parts = [part.to_low_rank() for part in self.parts]
        return LowRank(torch.cat([part.down_RI for part in parts]), torch.block_diag(*(part.up_OR for part in parts)))


def stacked(parts: Sequence[Change]) -> Change:
    """One change whose outputs are those of `parts`."""
    flat = [inner for part in parts for inner in (part.parts if isinstance(part, Stacked) else (part,))]
    return flat[0] if len(flat) == 1 else Stacked(tuple(flat))


@dataclass(frozen=True)
class Chain(_Several):
    """Changes of one layer made one after another. The order matters to a DoRA, which scales what it finds."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.parts[0].shape

    @property
    def needs_base(self) -> bool:
        return any(part.needs_base for part in self.parts)

    def scaled(self, strength: float) -> Chain:
        if self.needs_base and strength != 1:
            raise TypeError("changes that include a DoRA cannot be scaled together")
        return super().scaled(strength)

    def delta(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return sum(part.delta(dtype) for part in self.parts)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        return sum(part.apply(x) for part in self.parts)

    def rows(self, start: int, stop: int) -> Chain:
        return Chain(tuple(part.rows(start, stop) for part in self.parts))

    def to_low_rank(self) -> LowRank:
        return _concatenated([part.to_low_rank() for part in self.parts])

    def on_weight(self, weight_OI: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            weight_OI = part.on_weight(weight_OI)
        return weight_OI

    def on_output(self, linear: Linear, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts[:-1]:
            linear = _after(part, linear)
        return self.parts[-1].on_output(linear, x)

    def is_zero(self) -> bool:
        return all(part.is_zero() for part in self.parts)


def _after(change: Change, linear: Linear) -> Linear:
    return lambda x: change.on_output(linear, x)


def chain(parts: Sequence[Change]) -> Change:
    """The changes one after another; plain factors that stand together become one pair, with their ranks added."""
    flat = [inner for part in parts for inner in (part.parts if isinstance(part, Chain) else (part,))]
    joined: list[Change] = []
    for plain, together in itertools.groupby(flat, key=lambda part: isinstance(part, LowRank)):
        group = list(together)
        joined += [_concatenated(group)] if plain and len(group) > 1 else group
    return joined[0] if len(joined) == 1 else Chain(tuple(joined))


def _concatenated(parts: Sequence[LowRank]) -> LowRank:
    """The sum of plain changes: their ranks one after another."""
    return LowRank(torch.cat([part.down_RI for part in parts]), torch.cat([part.up_OR for part in parts], dim=1))


@dataclass
class Lora:
    """A LoRA of one transformer.

    `modules`: name of the linear layer in the diffusers transformer (such as `layers.0.attention.to_q`) -> its change.
    `metadata`: the file's own key-value strings. `name`: the file's name without folders, for messages and metadata.
    `notes`: what was left out of the file, one sentence each.
    """

    modules: dict[str, Change]
    metadata: dict[str, str] = field(default_factory=dict)
    name: str = ""
    notes: tuple[str, ...] = ()

    @property
    def needs_base(self) -> bool:
        """Return whether a layer's change depends on the base's weights (DoRA)."""
        return any(change.needs_base for change in self.modules.values())

    def changes_nothing(self) -> bool:
        """Return whether a model with this LoRA equals the model without it."""
        return all(change.is_zero() for change in self.modules.values())
