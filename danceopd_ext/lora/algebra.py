"""Sums, compression, differences of LoRAs, and a LoRA out of a full fine-tune, all on the small factors.

Shape suffixes: O outputs, I inputs, R rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from danceopd_ext.lora.weights import Lora, LowRank

#: below this share of the smaller size, a randomised decomposition is faster than the full one and as good
_RANDOMISED_SHARE = 0.15


def combine(weighted: Sequence[tuple[Lora, float]]) -> Lora:
    """The exact sum of LoRAs, each times its strength: ranks are concatenated. Raises ValueError for an empty list."""
    if not weighted:
        raise ValueError("combine needs at least one LoRA")
    modules = {}
    for name in dict.fromkeys(name for lora, _ in weighted for name in lora.modules):
        parts = [lora.modules[name].scaled(strength) for lora, strength in weighted if name in lora.modules]
        downs, ups = [part.down_RI for part in parts], [part.up_OR for part in parts]
        modules[name] = parts[0] if len(parts) == 1 else LowRank(torch.cat(downs), torch.cat(ups, dim=1))
    return Lora(modules, name=" + ".join(lora.name for lora, _ in weighted if lora.name))


def merge(loras: Sequence[Lora], how: str = "average") -> Lora:
    """The average or the sum of LoRAs' weight changes. Raises ValueError for any other `how`."""
    if how not in ("average", "sum"):
        raise ValueError(f'merge: how must be "average" or "sum", not "{how}"')
    strength = 1 / len(loras) if how == "average" and loras else 1.0
    return combine([(lora, strength) for lora in loras])


def compress(lora: Lora, rank: int) -> Lora:
    """The nearest LoRA of at most `rank` per layer (Frobenius norm; Eckart-Young), with balanced factors."""
    modules = {name: _compress(change, rank) for name, change in lora.modules.items()}
    return Lora(modules, dict(lora.metadata), lora.name)


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
    """The LoRA nearest to what a full fine-tune changed in `layers`, and each layer's relative error.

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
    size = min(delta_OI.shape)
    rank = min(rank, size)
    if rank <= size * _RANDOMISED_SHARE:
        devices = [delta_OI.device] if delta_OI.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            left, singular, right = torch.svd_lowrank(delta_OI, q=min(2 * rank + 8, size), niter=4)
        right = right.T
    else:
        left, singular, right = torch.linalg.svd(delta_OI, full_matrices=False)
    root = singular[:rank].sqrt()
    return LowRank((root.unsqueeze(1) * right[:rank]).contiguous(), (left[:, :rank] * root).contiguous())


def relative_difference(a: Lora, b: Lora) -> float:
    """||a - b|| / ||b|| over all layers (Frobenius norm of the weight changes); infinite when only b is zero."""
    difference = sum(_norm(change) ** 2 for change in combine([(a, 1.0), (b, -1.0)]).modules.values()) ** 0.5
    size = sum(_norm(change) ** 2 for change in b.modules.values()) ** 0.5
    if difference == 0:
        return 0.0
    return difference / size if size else float("inf")


def _norm(change: LowRank) -> float:
    """Frobenius norm of the weight change, in float64: a small difference of large LoRAs cancels."""
    up_r = torch.linalg.qr(change.up_OR.double(), mode="r").R
    down_r = torch.linalg.qr(change.down_RI.double().T, mode="r").R
    return float((up_r @ down_r.T).norm())
