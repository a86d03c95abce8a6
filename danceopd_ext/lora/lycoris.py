"""LoHa and LoKr changes as plain low-rank factors, exactly and without decomposing the big matrix.

Formulae: LyCORIS (Yeh et al., 2023, arXiv 2309.14859), section 3; scales as the `lycoris-lora` package applies them.
Shape suffixes: O outputs, I inputs, R rank; R1, R2 the ranks of two factors.
"""

from __future__ import annotations

import torch

from danceopd_ext.lora.weights import LowRank


def _scale(alpha: float | None, rank: int) -> float:
    """LyCORIS and sd-scripts both read an absent or zero alpha as alpha = rank."""
    return alpha / rank if alpha else 1.0


def lora(down_RI: torch.Tensor, up_OR: torch.Tensor, alpha: float | None) -> LowRank:
    """`alpha / R * up @ down`."""
    return LowRank(down_RI, up_OR * _scale(alpha, down_RI.shape[0]))


def loha(
    w1_a: torch.Tensor, w1_b: torch.Tensor, w2_a: torch.Tensor, w2_b: torch.Tensor, alpha: float | None
) -> LowRank:
    """`alpha / R * (w1_a @ w1_b) * (w2_a @ w2_b)`, element-wise product, of rank R1 R2.

    Row o of up is the Kronecker product of row o of w1_a and of w2_a; column i of down that of column i of w1_b and of
    w2_b: then up @ down is the sum over both ranks of (w1_a w1_b) (w2_a w2_b).
    """
    outputs, inputs = w1_a.shape[0], w1_b.shape[1]
    up_OR = (w1_a.unsqueeze(2) * w2_a.unsqueeze(1)).reshape(outputs, -1)
    down_RI = (w1_b.unsqueeze(1) * w2_b.unsqueeze(0)).reshape(-1, inputs)
    return LowRank(down_RI, up_OR * _scale(alpha, w1_b.shape[0]))


def lokr(parts: dict[str, torch.Tensor], alpha: float | None) -> LowRank:
    """`scale * kron(w1, w2)`, each of w1 and w2 given whole or as a product of two factors.

    kron(U1 D1, U2 D2) = kron(U1, U2) kron(D1, D2), so factors of the two small matrices are enough. The rank in the
    scale alpha / rank is that of the factored part; with both parts whole the scale is 1.
    """
    up1, down1 = _factors(parts, "lokr_w1")
    up2, down2 = _factors(parts, "lokr_w2")
    factored = [parts[name].shape[1] for name in ("lokr_w1_a", "lokr_w2_a") if name in parts]
    scale = _scale(alpha, factored[0]) if factored else 1.0
    return LowRank(_kron(down1, down2), _kron(up1, up2) * scale)


def _kron(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """torch.kron, which refuses some matrices with one column by their strides."""
    product = a[:, None, :, None] * b[None, :, None, :]
    return product.reshape(a.shape[0] * b.shape[0], a.shape[1] * b.shape[1])


def _factors(parts: dict[str, torch.Tensor], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (up, down) with up @ down equal to the matrix `name`, dropping what is zero to working precision."""
    if name not in parts:
        up, down = parts[f"{name}_a"], parts[f"{name}_b"]
        if up.shape[1] <= min(up.shape[0], down.shape[1]):
            return up, down
        matrix = up @ down
    else:
        matrix = parts[name]
    left, singular, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = max(1, int((singular > singular[0] * torch.finfo(torch.float32).eps * 4).sum()))
    root = singular[:kept].sqrt()
    return (left[:, :kept] * root).float(), (root.unsqueeze(1) * right[:kept]).float()
