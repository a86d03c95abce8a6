"""The one in-memory form of a LoRA, whatever file it came from.

Shape suffixes: I inputs and O outputs of a linear layer, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class LowRank:
    """The change of one linear layer's weight: `delta_OI = up_OR @ down_RI`; alpha and strength are folded in."""

    down_RI: torch.Tensor
    up_OR: torch.Tensor

    @property
    def rank(self) -> int:
        return self.down_RI.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs) of the layer it belongs to."""
        return self.up_OR.shape[0], self.down_RI.shape[1]

    def delta(self) -> torch.Tensor:
        """The weight change in float32, [O, I]."""
        return self.up_OR.float() @ self.down_RI.float()

    def scaled(self, strength: float) -> LowRank:
        return LowRank(self.down_RI, self.up_OR * strength)


@dataclass
class Lora:
    """A LoRA of one transformer.

    `modules`: name of the linear layer in the diffusers transformer (such as `layers.0.attention.to_q`) -> its change.
    `metadata`: the file's own key-value strings. `name`: the file's name without folders, for messages and metadata.
    """

    modules: dict[str, LowRank]
    metadata: dict[str, str] = field(default_factory=dict)
    name: str = ""
