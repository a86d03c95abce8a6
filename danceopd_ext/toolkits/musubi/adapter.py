"""What the adapters of musubi-tuner's architectures share: every velocity is the trainer's own `call_dit`.

Shape suffixes: B samples, N solver steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from danceopd_ext.toolkits.hosted.conditions import Conditions, Entry

#: what a batch holds besides conditions: the picture itself, and the noise levels of the toolkit's own training
NO_CONDITIONS = ("latents", "timesteps")


class DitAdapter(ABC):
    """One architecture. A subclass says how its sampler's grid is made, and what is particular about its batches.

    `trainer`: the toolkit's, for `call_dit`. `network_dtype`: what the toolkit hands to `call_dit`.
    """

    #: dz/dsigma = sign * what the transformer gives
    sign = 1.0
    #: the text that the toolkit's sampler takes where no negative prompt is given
    empty_prompt = ""

    def __init__(self, trainer: Any, args: Any, accelerator: Any, network_dtype: torch.dtype = torch.float32):
        self.trainer, self.args, self.accelerator, self.network_dtype = trainer, args, accelerator, network_dtype

    @staticmethod
    @abstractmethod
    def complete(args: Any) -> None:
        """What the toolkit's own script sets in its arguments before it trains. Raises UserError."""

    def condition(
        self, batch: Mapping[str, Entry], routes: Sequence[str], empty: Mapping[str, Entry] | None = None
    ) -> Conditions:
        """The batch as it comes from the toolkit's data set: texts, and the latents of source images."""
        kinds = (torch.Tensor, list)
        entries = {k: v for k, v in batch.items() if k not in NO_CONDITIONS and isinstance(v, kinds)}
        return Conditions(entries, list(routes), empty)

    def velocity(
        self, transformer: torch.nn.Module, z_B: torch.Tensor, sigma_B: torch.Tensor, condition: Conditions
    ) -> torch.Tensor:
        """dz/dsigma [B, ...]. The time is 1000 * sigma in float32, without the 1 that the toolkit's training adds."""
        # Detached: under gradient checkpointing call_dit marks what it gets as asking for a gradient.
        batch = {name: _detached(entry) for name, entry in condition.entries.items()}
        batch["latents"] = z_B.detach()  # call_dit looks up its shape here, and else uses it for its own target only
        output = self.trainer.call_dit(
            self.args, self.accelerator, transformer, batch["latents"], batch, batch["latents"], z_B,
            sigma_B * 1000, self.network_dtype,
        )  # fmt: skip
        return self.sign * output.pred

    @abstractmethod
    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        """The grid [N + 1] of the toolkit's own sampler, from 1 to 0, for latents of this shape."""

    @abstractmethod
    def text_entries(self, sample_parameter: Mapping[str, Any]) -> dict[str, Entry]:
        """What `process_sample_prompts` gave for one prompt, as the entries of a batch of one sample."""


def _detached(entry: Entry) -> Entry:
    return [part.detach() for part in entry] if isinstance(entry, list) else entry.detach()
