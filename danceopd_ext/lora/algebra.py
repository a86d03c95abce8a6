"""Adds, compresses and compares LoRAs, and extracts a LoRA from a full fine-tune.

Works on the small factors of plain and Kronecker changes. If two forms have no common one, computes the whole change
of one layer at a time.

Shape suffixes: O outputs, I inputs, R rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from danceopd_ext.errors import UserError
from danceopd_ext.lora.lycoris import Kronecker
from danceopd_ext.lora.weights import Change, Lora, LowRank, chain

#: below this share of the smaller size, a randomised decomposition is faster than the full one and as accurate
_RANDOMISED_SHARE = 0.15

#: a smaller share of the squared norm may be rounding
_ROUNDING = 1e-6

#: how many layers the estimate in a message uses
_SAMPLED = 4


def combine(weighted: Sequence[tuple[Lora, float]]) -> Lora:
    """Return the LoRAs one after another, each at its strength: their exact sum, with concatenated ranks if plain.

    A DoRA in the list scales the weight that the earlier ones leave, as in ComfyUI. Raises ValueError for an empty
    list.
    """
    if not weighted:
        raise ValueError("combine needs at least one LoRA")
    modules = {}
    for name in dict.fromkeys(name for lora, _ in weighted for name in lora.modules):
        modules[name] = chain(
            [lora.modules[name].scaled(strength) for lora, strength in weighted if name in lora.modules]
        )
    notes = tuple(note for lora, _ in weighted for note in lora.notes)
    return Lora(modules, name=" + ".join(lora.name for lora, _ in weighted if lora.name), notes=notes)


def merge(loras: Sequence[Lora], how: str = "average") -> Lora:
    """Return the average or the sum of LoRAs' weight changes. Raises ValueError for any other `how`."""
    if how not in ("average", "sum"):
        raise ValueError(f'merge: how must be "average" or "sum", not "{how}"')
    strength = 1 / len(loras) if how == "average" and loras else 1.0
    return combine([(lora, strength) for lora in loras])


def check_additive(lora: Lora, what: str) -> None:
    """Raise UserError for a LoRA whose change depends on the base; `what`: why that matters."""
    layer = next((name for name, change in lora.modules.items() if change.needs_base), None)
    if layer:
        raise UserError(
            f"{lora.name or 'LoRA'}: a DoRA ({layer} has a magnitude). Its change depends on the base's weights: {what}"
        )


def low_rank(lora: Lora, remedy: str) -> Lora:
    """Return the same LoRA as plain factors, exactly, without layers of rank 0, which change nothing.

    Raises UserError for a DoRA, and for a change whose factors have more than half as many numbers as its layer. The
    message says what a lower rank loses, and then `remedy`.
    """
    check_additive(lora, f"it cannot be written as a plain LoRA. {remedy}")
    large = {name: change for name, change in lora.modules.items() if _is_large(change)}
    if large:
        name, change = next(iter(large.items()))
        losses = ", ".join(f"{loss:.0%} at rank {rank}" for rank, loss in _losses(list(large.values())).items())
        raise UserError(
            f"{lora.name or 'LoRA'}: {len(large)} of {len(lora.modules)} layers are products of high rank, such as"
            f" {name} (rank {change.rank} of {min(change.shape)}): written as plain factors they would have more "
            f"than half as many numbers as the layers themselves. {remedy} A lower rank loses part of the change: "
            f"about {losses}."
        )
    plain = {name: change.to_low_rank() for name, change in lora.modules.items()}
    return replace(lora, modules={name: change for name, change in plain.items() if change.rank})


def _is_large(change: Change) -> bool:
    outputs, inputs = change.shape
    return not isinstance(change, LowRank) and 2 * change.rank * (outputs + inputs) > outputs * inputs


def _losses(changes: Sequence[Change]) -> dict[int, float]:
    """Rank -> ||D - nearest|| / ||D|| of a few of the changes, together."""
    sample = changes[:: max(1, len(changes) // _SAMPLED)][:_SAMPLED]
    smallest = min(min(change.shape) for change in sample)
    ranks = [rank for rank in (16, 32, 64, 128) if rank < smallest] or [max(1, smallest // 2)]
    total, kept = 0.0, dict.fromkeys(ranks, 0.0)
    for change in sample:
        total += _norm(change) ** 2
        values = change.singular_values() if isinstance(change, Kronecker) else _largest(change.delta(), ranks[-1])
        for rank in ranks:
            kept[rank] += float(values[:rank].double().square().sum())
    return {rank: (max(0.0, 1 - own / total) if total else 0.0) ** 0.5 for rank, own in kept.items()}


def compress(lora: Lora, rank: int) -> Lora:
    """Return the nearest LoRA of at most `rank` per layer (Frobenius norm; Eckart-Young), with balanced factors.

    Raises UserError for a DoRA.
    """
    check_additive(lora, "it cannot be compressed to a plain LoRA. Use a LoRA without magnitudes.")
    modules = {name: _nearest(change, rank) for name, change in lora.modules.items()}
    return Lora(modules, dict(lora.metadata), lora.name)


def compression_loss(whole: Lora, compressed: Lora) -> float:
    """Return ||whole - compressed|| / ||whole|| for the result of `compress` on `whole`; 0 if `whole` is zero.

    The nearest change of a rank is a projection, so the norms are enough: the difference of large layers is never
    computed.
    """
    total = sum(_norm(change) ** 2 for change in whole.modules.values())
    kept = sum(_norm(change) ** 2 for change in compressed.modules.values())
    lost = max(0.0, 1 - kept / total) if total else 0.0
    return lost**0.5 if lost > _ROUNDING else 0.0


def _nearest(change: Change, rank: int) -> LowRank:
    if isinstance(change, LowRank):
        return _compress(change, rank)
    if isinstance(change, Kronecker):
        return change.nearest(rank)
    return _factorise(change.delta(), rank) if _is_large(change) else _compress(change.to_low_rank(), rank)


def _compress(change: LowRank, rank: int) -> LowRank:
    up_q, up_r = torch.linalg.qr(change.up_OR.float())
    down_q, down_r = torch.linalg.qr(change.down_RI.float().T)
    left, singular, right = torch.linalg.svd(up_r @ down_r.T, full_matrices=False)
    rank = min(rank, singular.shape[0])
    root = singular[:rank].sqrt()
    return LowRank(root.unsqueeze(1) * (right[:rank] @ down_q.T), (up_q @ left[:, :rank]) * root)


@torch.no_grad()
def extract(
    base: torch.nn.Module | Mapping[str, torch.Tensor],
    tuned: Mapping[str, torch.Tensor],
    layers: Iterable[str],
    rank: int,
) -> tuple[Lora, dict[str, float]]:
    """Return the LoRA nearest to what a full fine-tune changed in `layers`, and each layer's relative error.

    The error is ||D - up down|| / ||D|| for the weight difference D (Frobenius norm). `base` and `tuned` hold
    `<layer>.weight` in the same names. Layers that did not change are left out. The same input always gives the same
    result. Raises KeyError for a layer that is missing, ValueError for unequal shapes.
    """
    weights = base.state_dict() if isinstance(base, torch.nn.Module) else base
    modules, errors = {}, {}
    for name in layers:
        before, after = weights[f"{name}.weight"], tuned[f"{name}.weight"]
        if before.shape != after.shape:
            raise ValueError(f"{name}: {tuple(before.shape)} in the base and {tuple(after.shape)} in the fine-tune")
        delta = after.float().to(before.device) - before.float()
        if bool(delta.any()):
            modules[name] = _factorise(delta, rank)
            errors[name] = float((delta - modules[name].delta()).norm() / delta.norm())
    return Lora(modules), errors


def _factorise(delta_OI: torch.Tensor, rank: int) -> LowRank:
    """The nearest product of rank `rank`."""
    left, singular, right = _decompose(delta_OI, min(rank, *delta_OI.shape))
    root = singular[:rank].sqrt()
    return LowRank((root.unsqueeze(1) * right[:rank]).contiguous(), (left[:, :rank] * root).contiguous())


def _largest(delta_OI: torch.Tensor, rank: int) -> torch.Tensor:
    """The largest `rank` singular values, or more of them."""
    return _decompose(delta_OI, min(rank, *delta_OI.shape))[1]


def _decompose(delta_OI: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(left, singular values, right) of at least `rank`; the same input always gives the same result."""
    size = min(delta_OI.shape)
    if rank > size * _RANDOMISED_SHARE:
        return torch.linalg.svd(delta_OI, full_matrices=False)
    devices = [delta_OI.device] if delta_OI.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        left, singular, right = torch.svd_lowrank(delta_OI, q=min(2 * rank + 8, size), niter=4)
    return left, singular, right.T


def relative_difference(a: Lora, b: Lora) -> float:
    """Return ||a - b|| / ||b|| over all layers (Frobenius norm of the weight changes); infinite if only b is zero.

    Raises UserError for a DoRA.
    """
    for lora in (a, b):
        check_additive(lora, "its size cannot be compared without the base.")
    difference = sum(_norm(change) ** 2 for change in combine([(a, 1.0), (b, -1.0)]).modules.values()) ** 0.5
    size = sum(_norm(change) ** 2 for change in b.modules.values()) ** 0.5
    if difference == 0:
        return 0.0
    return difference / size if size else float("inf")


def _norm(change: Change) -> float:
    """Frobenius norm of the weight change, in float64: a small difference of large LoRAs cancels."""
    if isinstance(change, Kronecker):
        return change.norm()
    if _is_large(change):
        return float(change.delta(torch.float64).norm())
    change = change.to_low_rank()  # of a product of low rank, which can be far smaller than the layer
    up_r = torch.linalg.qr(change.up_OR.double(), mode="r").R
    down_r = torch.linalg.qr(change.down_RI.double().T, mode="r").R
    return float((up_r @ down_r.T).norm())
