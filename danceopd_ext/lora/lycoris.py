"""Applies LoHa and LoKr changes, kept as the products that their files hold.

As two plain factors they are large: a LoHa of rank 32 has rank 1,024, and a LoKr with whole factors the full rank of
its layer. Code that needs plain factors calls `to_low_rank`, which is exact.

Formulae: LyCORIS (Yeh et al., 2023, arXiv 2309.14859), section 3; scales as the `lycoris-lora` package applies them.
Shape suffixes: O outputs, I inputs, R rank; R1, R2 the ranks of two factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from danceopd_ext.lora.weights import Change, LowRank, stacked


@dataclass(frozen=True)
class Hadamard(Change):
    """`scale * (w1_a @ w1_b) * (w2_a @ w2_b)`, the products multiplied entry by entry. Its rank is R1 R2."""

    w1_a: torch.Tensor
    w1_b: torch.Tensor
    w2_a: torch.Tensor
    w2_b: torch.Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.w1_a.shape[0], self.w1_b.shape[1]

    @property
    def rank(self) -> int:
        return self.w1_b.shape[0] * self.w2_b.shape[0]

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.w1_a, self.w1_b, self.w2_a, self.w2_b

    def numbers(self) -> tuple[object, ...]:
        return (self.scale,)

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Hadamard:
        return Hadamard(*(function(tensor) for tensor in self.tensors()), self.scale)

    def scaled(self, strength: float) -> Hadamard:
        return replace(self, scale=self.scale * strength)

    def delta(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        w1_a, w1_b, w2_a, w2_b = (tensor.to(dtype) for tensor in self.tensors())
        return (w1_a * self.scale @ w1_b).mul_(w2_a @ w2_b)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the layer's whole change for each call: a Hadamard product has no cheaper form."""
        weight = (self.w1_a * self.scale @ self.w1_b) * (self.w2_a @ self.w2_b)
        return torch.nn.functional.linear(x, weight)

    def rows(self, start: int, stop: int) -> Hadamard:
        return replace(self, w1_a=self.w1_a[start:stop], w2_a=self.w2_a[start:stop])

    def is_zero(self) -> bool:
        return not all(bool(tensor.any()) for tensor in self.tensors()) or super().is_zero()

    def to_low_rank(self) -> LowRank:
        """Row o of up is the Kronecker product of row o of w1_a and of w2_a; column i of down that of w1_b and w2_b.

        Then up @ down is the sum over both ranks of (w1_a w1_b) (w2_a w2_b).
        """
        w1_a, w1_b, w2_a, w2_b = (tensor.float() for tensor in self.tensors())
        up_OR = (w1_a.unsqueeze(2) * w2_a.unsqueeze(1)).reshape(w1_a.shape[0], -1)
        down_RI = (w1_b.unsqueeze(1) * w2_b.unsqueeze(0)).reshape(-1, w1_b.shape[1])
        return LowRank(down_RI, up_OR * self.scale)


@dataclass(frozen=True)
class Kronecker(Change):
    """`scale * kron(first, second)`; each factor is a whole matrix or the product of two."""

    first: torch.Tensor | LowRank
    second: torch.Tensor | LowRank
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        (o1, i1), (o2, i2) = self.first.shape, self.second.shape
        return o1 * o2, i1 * i2

    @cached_property
    def rank(self) -> int:
        """The product of the factors' ranks to working precision."""
        return _rank(self.first) * _rank(self.second)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(t for f in (self.first, self.second) for t in (f.tensors() if isinstance(f, LowRank) else (f,)))

    def numbers(self) -> tuple[object, ...]:
        return (self.scale,)

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Kronecker:
        first, second = (
            factor.mapped(function) if isinstance(factor, LowRank) else function(factor)
            for factor in (self.first, self.second)
        )
        return Kronecker(first, second, self.scale)

    def scaled(self, strength: float) -> Kronecker:
        return replace(self, scale=self.scale * strength)

    def delta(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return _kron(_matrix(self.first, dtype) * self.scale, _matrix(self.second, dtype))

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """With x as a matrix [I1, I2], the product is first @ x @ second^T: the change itself is never made."""
        folded = x.unflatten(-1, (self.first.shape[1], self.second.shape[1]))
        second = self.second
        made = second.apply(folded) if isinstance(second, LowRank) else torch.nn.functional.linear(folded, second)
        first = self.first.delta(x.dtype) if isinstance(self.first, LowRank) else self.first
        return torch.matmul(first * self.scale, made).flatten(-2)

    def rows(self, start: int, stop: int) -> Change:
        """Whole blocks of rows of `second` are rows of `first`; a block that is cut becomes a product of its own."""
        size = self.second.shape[0]
        (block, inside), (last, rest) = divmod(start, size), divmod(stop, size)
        if block == last:
            return self._block(block, inside, rest)
        pieces = [self._block(block, inside, size)] if inside else []
        whole = block + bool(inside)
        if whole < last:
            pieces.append(replace(self, first=_rows(self.first, whole, last)))
        if rest:
            pieces.append(self._block(last, 0, rest))
        return stacked(pieces)

    def _block(self, row: int, start: int, stop: int) -> Kronecker:
        return replace(self, first=_rows(self.first, row, row + 1), second=_rows(self.second, start, stop))

    def to_low_rank(self) -> LowRank:
        """kron(U1 D1, U2 D2) = kron(U1, U2) kron(D1, D2), so factors of the two small matrices are enough."""
        (up1, down1), (up2, down2) = _factors(self.first), _factors(self.second)
        return LowRank(_kron(down1, down2), _kron(up1, up2) * self.scale)

    def is_zero(self) -> bool:
        return self.scale == 0 or any(_is_zero(factor) for factor in (self.first, self.second))

    def norm(self) -> float:
        """Frobenius norm of the change, in float64."""
        return abs(self.scale) * math.prod(_norm(factor) for factor in (self.first, self.second))

    def singular_values(self) -> torch.Tensor:
        """All singular values of the change, largest first: the products of the factors'."""
        one, two = _singular_values(self.first), _singular_values(self.second)
        return abs(self.scale) * torch.outer(one, two).flatten().sort(descending=True).values

    def nearest(self, rank: int) -> LowRank:
        """The nearest change of at most `rank` (Eckart-Young), from the decompositions of the two factors."""
        (left1, size1, right1), (left2, size2, right2) = (
            _svd(factor, torch.float32) for factor in (self.first, self.second)
        )
        kept = torch.outer(size1, size2).flatten().topk(min(rank, len(size1) * len(size2)))
        i, j = kept.indices // len(size2), kept.indices % len(size2)
        up = (left1[:, None, i] * left2[None, :, j]).flatten(0, 1)
        down = (right1[i, :, None] * right2[j, None, :]).flatten(1)
        root = (kept.values * abs(self.scale)).sqrt()
        return LowRank(root.unsqueeze(1) * down, up * root * math.copysign(1.0, self.scale))


def _matrix(factor: torch.Tensor | LowRank, dtype: torch.dtype) -> torch.Tensor:
    return factor.delta(dtype) if isinstance(factor, LowRank) else factor.to(dtype)


def _rows(factor: torch.Tensor | LowRank, start: int, stop: int) -> torch.Tensor | LowRank:
    return factor.rows(start, stop) if isinstance(factor, LowRank) else factor[start:stop]


def _kron(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """torch.kron, which refuses some matrices with one column by their strides."""
    product = a[:, None, :, None] * b[None, :, None, :]
    return product.reshape(a.shape[0] * b.shape[0], a.shape[1] * b.shape[1])


def _factors(factor: torch.Tensor | LowRank) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (up, down) with up @ down equal to the matrix, dropping what is zero to working precision."""
    if _is_small(factor):
        return factor.up_OR.float(), factor.down_RI.float()
    left, singular, right = _svd(factor, torch.float64)
    kept = _count(singular)
    root = singular[:kept].sqrt()
    return (left[:, :kept] * root).float(), (root.unsqueeze(1) * right[:kept]).float()


def _svd(factor: torch.Tensor | LowRank, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(left, singular values, right) of the matrix; of two thin factors without making their product."""
    if not _is_small(factor):
        return torch.linalg.svd(_matrix(factor, dtype), full_matrices=False)
    (up_q, up_r), (down_q, down_r) = (
        torch.linalg.qr(factor.up_OR.to(dtype)),
        torch.linalg.qr(factor.down_RI.to(dtype).T),
    )
    left, singular, right = torch.linalg.svd(up_r @ down_r.T, full_matrices=False)
    return up_q @ left, singular, right @ down_q.T


def _singular_values(factor: torch.Tensor | LowRank) -> torch.Tensor:
    """All of them, those that are zero by the rank of the factor too."""
    found = _svd(factor, torch.float32)[1]
    return torch.nn.functional.pad(found, (0, min(factor.shape) - len(found)))


def _norm(factor: torch.Tensor | LowRank) -> float:
    """Frobenius norm, in float64."""
    if not _is_small(factor):
        return float(_matrix(factor, torch.float64).norm())
    up_r = torch.linalg.qr(factor.up_OR.double(), mode="r").R
    down_r = torch.linalg.qr(factor.down_RI.double().T, mode="r").R
    return float((up_r @ down_r.T).norm())


def _is_zero(factor: torch.Tensor | LowRank) -> bool:
    return factor.is_zero() if isinstance(factor, LowRank) else not bool(factor.any())


def _rank(factor: torch.Tensor | LowRank) -> int:
    """The rank of `_factors`."""
    return factor.rank if _is_small(factor) else _count(torch.linalg.svdvals(_matrix(factor, torch.float64)))


def _is_small(factor: torch.Tensor | LowRank) -> bool:
    return isinstance(factor, LowRank) and factor.rank <= min(factor.shape)


def _count(singular: torch.Tensor) -> int:
    """How many singular values are not zero to float32's working precision; at least 1."""
    return max(1, int((singular > singular[0] * torch.finfo(torch.float32).eps * 4).sum()))
