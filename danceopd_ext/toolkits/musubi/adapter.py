"""What an architecture says about itself on musubi's trainer; a file beside this one for each.

Shape suffixes: B samples, N solver steps.
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danceopd_ext.toolkits.hosted.conditions import Conditions, Entry

#: what a batch holds besides conditions: the target picture, which the method does not look at, and musubi's own times
NOT_CONDITIONS = ("latents", "timesteps")


class MusubiAdapter(ABC):
    """The velocity of musubi's transformer through the trainer's own `call_dit`, so that all of a batch reaches it.

    trainer, args: musubi's. flow_shift: the user's discrete_flow_shift, or None for the sampler's own. accelerator,
    network_dtype: set by the trainer as soon as musubi has made them. empty: entries of the empty prompt, for guidance.
    """

    #: what call_dit's prediction is multiplied with to be dz/dsigma
    sign = 1
    #: what musubi encodes where a sample prompt has no negative prompt
    empty_prompt = " "
    #: whether the text encoder reads the source images too, so that the empty prompt is another one for each of them
    text_sees_sources = False
    #: picture sides are multiples of this many pixels
    size_step = 16
    #: the arguments that name the text encoders' files
    text_encoder_arguments: tuple[str, ...] = ("text_encoder",)
    #: further arguments that change what the text encoders give
    text_options: tuple[str, ...] = ()
    #: the guidance that people draw with, where the transformer is told one; None: it is told none
    embedded_guidance: float | None = None

    def __init__(self, trainer: Any, args: argparse.Namespace, flow_shift: float | None = None):
        self.trainer, self.args, self.flow_shift = trainer, args, flow_shift
        self.accelerator: Any = None
        self.network_dtype = torch.float32
        self.empty: Mapping[str, Entry] | None = None

    @classmethod  # noqa: B027 - most have nothing to set
    def complete(cls, args: argparse.Namespace) -> None:
        """Set in the arguments what musubi's own script sets before it trains. Raises UserError."""

    @classmethod
    def usual_guidance(cls, args: argparse.Namespace) -> float | None:
        """`guidance_scale` where the user gives none; None: this model does not take it."""
        return cls.embedded_guidance

    def condition(self, batch: Mapping[str, Any], routes: list[str]) -> Conditions:
        """All of musubi's batch that the velocity may depend on: texts and source images."""
        entries = {name: entry for name, entry in batch.items() if name not in NOT_CONDITIONS}
        return Conditions(entries, routes, self.empty)

    def velocity(
        self, transformer: torch.nn.Module, z_B: torch.Tensor, sigma_B: torch.Tensor, condition: Conditions
    ) -> torch.Tensor:
        """dz/dsigma [B, ...]. Times are 1000 * sigma, as in musubi's sampler (its training adds 1).

        `call_dit` reads from latents and noise only their shape, and makes a target of them that nobody reads.
        """
        batch = {name: _detached(entry) for name, entry in condition.entries.items()}
        batch["latents"] = z_B
        if self.usual_guidance(self.args) is not None:
            transformer = WithGuidance(transformer, self.args.guidance_scale)
        output = self.trainer.call_dit(
            self.args, self.accelerator, transformer, z_B, batch, z_B, z_B, sigma_B * 1000.0, self.network_dtype
        )
        return self.sign * output.pred

    @abstractmethod
    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        """The sampler's own grid [N + 1] in float32, from 1 to 0, for latents of this shape (without B)."""

    @abstractmethod
    def latent_shape(self, width: int, height: int) -> tuple[int, ...] | None:
        """Shape of a batch's latents (without B) for a picture of this size; None: the model needs a source image."""

    @abstractmethod
    def text_encoder(self, device: torch.device) -> Callable[[list[Any]], None]:
        """Load the text encoders. The result encodes the captions of musubi's ItemInfos and writes their cache files.

        What it holds is freed with it.
        """

    def text_encoder_files(self) -> dict[str, Path | None]:
        """The files or folders of the text encoders by the arguments that name them; None: not given."""
        given = {name: getattr(self.args, name, None) for name in self.text_encoder_arguments}
        return {name: Path(value) if value else None for name, value in given.items()}


@dataclass(frozen=True)
class WithGuidance:
    """The transformer, told this guidance. musubi's `call_dit` tells it 1 whatever the arguments say."""

    transformer: Any
    guidance: float

    def __call__(self, *inputs: Any, guidance: torch.Tensor, **named: Any) -> Any:
        return self.transformer(*inputs, guidance=torch.full_like(guidance, self.guidance), **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transformer, name)


def _detached(entry: Entry) -> Entry:
    """The same values in new tensors: with gradient checkpointing call_dit asks for gradients on what it gets."""
    if isinstance(entry, list):
        return [part.detach() if isinstance(part, torch.Tensor) else part for part in entry]
    return entry.detach() if isinstance(entry, torch.Tensor) else entry
