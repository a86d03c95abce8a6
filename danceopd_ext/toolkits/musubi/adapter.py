"""Defines what an architecture provides to run on musubi's trainer; `adapters` has a file for each.

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

#: entries of a batch that are not conditions: the dataset's picture, which the method does not use, and musubi's times
NOT_CONDITIONS = ("latents", "timesteps")


class MusubiAdapter(ABC):
    """Calls musubi's transformer through the trainer's own `call_dit`, so that it gets the whole batch.

    trainer, args: musubi's. flow_shift: the user's discrete_flow_shift, or None for the sampler's own. accelerator,
    network_dtype: set by the trainer when musubi has made them. empty: entries of the empty prompt, for guidance.
    """

    #: factor from call_dit's prediction to dz/dsigma
    sign = 1
    #: what musubi encodes if a sample prompt has no negative prompt
    empty_prompt = " "
    #: whether the text encoder also reads the source images, so that the empty prompt differs for each of them
    text_sees_sources = False
    #: picture sides are multiples of this many pixels
    size_step = 16
    #: the arguments that name the text encoders' files
    text_encoder_arguments: tuple[str, ...] = ("text_encoder",)
    #: other arguments that change the outputs of the text encoders
    text_options: tuple[str, ...] = ()
    #: the usual guidance, if it is an input of the transformer; None: it is not
    embedded_guidance: float | None = None

    def __init__(self, trainer: Any, args: argparse.Namespace, flow_shift: float | None = None):
        self.trainer, self.args, self.flow_shift = trainer, args, flow_shift
        self.accelerator: Any = None
        self.network_dtype = torch.float32
        self.empty: Mapping[str, Entry] | None = None

    @classmethod  # noqa: B027 - most have nothing to set
    def complete(cls, args: argparse.Namespace) -> None:
        """Set the arguments that musubi's own script sets before it trains. Raises UserError."""

    @classmethod
    def usual_guidance(cls, args: argparse.Namespace) -> float | None:
        """Return the default of `guidance_scale`; None: this model does not take it."""
        return cls.embedded_guidance

    def condition(self, batch: Mapping[str, Any], routes: list[str]) -> Conditions:
        """Return the part of musubi's batch that the velocity depends on: texts and source images."""
        entries = {name: entry for name, entry in batch.items() if name not in NOT_CONDITIONS}
        return Conditions(entries, routes, self.empty)

    def velocity(
        self, transformer: torch.nn.Module, z_B: torch.Tensor, sigma_B: torch.Tensor, condition: Conditions
    ) -> torch.Tensor:
        """Return dz/dsigma [B, ...]. Times are 1000 * sigma, as in musubi's sampler (its training adds 1).

        `call_dit` uses only the shape of latents and noise for the prediction; its own target is ignored.
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
        """Return the sampler's own grid [N + 1] in float32, from 1 to 0, for latents of this shape (without B)."""

    @abstractmethod
    def latent_shape(self, width: int, height: int) -> tuple[int, ...] | None:
        """Return the shape of latents (without B) for a picture of this size; None: the model needs a source image."""

    @abstractmethod
    def text_encoder(self, device: torch.device) -> Callable[[list[Any]], None]:
        """Load the text encoders. The result encodes the captions of musubi's ItemInfos and writes their cache files.

        Deleting the result frees the encoders.
        """

    def text_encoder_files(self) -> dict[str, Path | None]:
        """Return the files or folders of the text encoders by argument; None: not given."""
        given = {name: getattr(self.args, name, None) for name in self.text_encoder_arguments}
        return {name: Path(value) if value else None for name, value in given.items()}


@dataclass(frozen=True)
class WithGuidance:
    """The transformer with this guidance as its input; musubi's `call_dit` always passes 1."""

    transformer: Any
    guidance: float

    def __call__(self, *inputs: Any, guidance: torch.Tensor, **named: Any) -> Any:
        return self.transformer(*inputs, guidance=torch.full_like(guidance, self.guidance), **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transformer, name)


def _detached(entry: Entry) -> Entry:
    """Return the values in new tensors: with gradient checkpointing call_dit makes its inputs require gradients."""
    if isinstance(entry, list):
        return [part.detach() if isinstance(part, torch.Tensor) else part for part in entry]
    return entry.detach() if isinstance(entry, torch.Tensor) else entry
