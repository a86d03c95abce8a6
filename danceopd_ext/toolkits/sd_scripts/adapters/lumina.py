"""Runs the method on Lumina Image 2.0 (and Neta Lumina) in sd-scripts.

Shape suffixes: B samples, C latent channels, H and W latent height and width, N solver steps.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import torch

from danceopd_ext.toolkits.hosted.architecture import Architecture, with_files
from danceopd_ext.toolkits.hosted.conditions import Conditions
from danceopd_ext.toolkits.hosted.seams import Call
from danceopd_ext.toolkits.hosted.weights_header import Kind
from danceopd_ext.toolkits.sd_scripts.text_adapter import TextAdapter

#: shift of the toolkit's sampler, independent of the training arguments
SHIFT = 6.0
#: functions of the toolkit that the adapter uses
CALLS = (
    Call(
        "library.strategy_lumina:LuminaTextEncodingStrategy.encode_tokens",
        ("", "tokenize_strategy", "models", "tokens"),
        returns=3,
    ),
    Call("library.strategy_lumina:LuminaTokenizeStrategy.tokenize", ("", "text")),
    Call("library.lumina_models:NextDiT.forward", ("",), ("x", "t", "cap_feats", "cap_mask")),
    Call("library.sd3_train_utils:FlowMatchEulerDiscreteScheduler", named=("shift",)),
)


@dataclass(frozen=True)
class LuminaAdapter(TextAdapter):
    """The transformer's time and velocity run from noise (0) to the picture (1): both are reversed."""

    texts = ("embeds", "ids", "mask")

    def velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, condition: Conditions
    ) -> torch.Tensor:
        mask = condition["mask"].to(torch.int32)  # cached masks arrive as floats
        return -transformer(x=z_BCHW.contiguous(), t=1 - sigma_B, cap_feats=condition["embeds"], cap_mask=mask)

    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        """Return the scheduler's grid, which is not `shift(linspace(1, 0))`: its end is shifted twice."""
        scheduler = importlib.import_module("library.sd3_train_utils").FlowMatchEulerDiscreteScheduler(shift=SHIFT)
        scheduler.set_timesteps(steps)
        return scheduler.sigmas.float().cpu()


LUMINA = Architecture(
    model_type="lumina",
    title="Lumina Image 2.0",
    script="lumina_train_network",
    trainer="LuminaNetworkTrainer",
    network_module="networks.lora_lumina",
    adapter=lambda trainer, args: LuminaAdapter(),
    **with_files("gemma2", "ae"),
    kinds=(Kind("Lumina Image 2.0", ("cap_embedder.0.", "noise_refiner.0."), ("cap_pad_token",)),),
    blocks=("layers",),
    calls=CALLS,
)
