"""Runs the method on FLUX.1 (dev, schnell) and Chroma in sd-scripts.

Shape suffixes: B samples, C latent channels, H and W latent height and width, T tokens, N solver steps.
"""

from __future__ import annotations

import importlib
from argparse import Namespace
from dataclasses import dataclass, replace
from typing import Any

import torch

from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.toolkits.hosted.architecture import MODEL, Architecture, with_files
from danceopd_ext.toolkits.hosted.conditions import Conditions
from danceopd_ext.toolkits.hosted.seams import Call
from danceopd_ext.toolkits.hosted.weights_header import Kind
from danceopd_ext.toolkits.sd_scripts.text_adapter import TextAdapter

_FORWARD = ("img", "img_ids", "txt", "txt_ids", "y", "timesteps", "guidance", "txt_attention_mask", "mod_vectors")
_MODULATION = ("timesteps", "guidance", "batch_size")
#: functions of the toolkit that the adapter uses
CALLS = (
    Call(
        "library.strategy_flux:FluxTextEncodingStrategy.encode_tokens",
        ("", "tokenize_strategy", "models", "tokens"),
        returns=4,
    ),
    Call("library.strategy_flux:FluxTokenizeStrategy.tokenize", ("", "text")),
    Call("library.flux_models:Flux.forward", ("",), _FORWARD),
    Call("library.flux_models:Flux.get_mod_vectors", ("",), _MODULATION),
    Call("library.chroma_models:Chroma.forward", ("",), _FORWARD),
    Call("library.chroma_models:Chroma.get_mod_vectors", ("",), _MODULATION),
    Call("library.flux_train_utils:get_schedule", ("num_steps", "image_seq_len"), ("shift",)),
)


@dataclass(frozen=True)
class FluxAdapter(TextAdapter):
    """The transformer takes sigma as its time and returns dz/dsigma directly, both on packed latents.

    `guidance_scale`: the guidance that FLUX.1 dev takes as an input (0 for Chroma, unused by schnell), the same for
    student and teachers. `apply_t5_attn_mask`: the toolkit's argument; Chroma always needs it. `shifted`: the grid is
    shifted by the picture's size; schnell's is not.
    """

    texts = ("pooled", "embeds", "ids", "mask")

    guidance_scale: float
    apply_t5_attn_mask: bool
    shifted: bool = True

    def velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, condition: Conditions
    ) -> torch.Tensor:
        count, _, height, width = z_BCHW.shape
        guidance_B = torch.full_like(sigma_B, self.guidance_scale)
        with torch.no_grad():  # Chroma's modulation is not trained; FLUX.1 has None here
            modulation = transformer.get_mod_vectors(timesteps=sigma_B, guidance=guidance_B, batch_size=count)
        packed = transformer(
            img=pack(z_BCHW),
            img_ids=image_ids(count, height // 2, width // 2).to(z_BCHW.device),
            txt=condition["embeds"],
            txt_ids=condition["ids"],
            y=condition["pooled"],
            timesteps=sigma_B,
            guidance=guidance_B,
            txt_attention_mask=condition["mask"] if self.apply_t5_attn_mask else None,
            mod_vectors=modulation,
        )
        return unpack(packed, height, width)

    def sigmas(self, steps: int, latent_shape: tuple[int, ...]) -> torch.Tensor:
        tokens = (latent_shape[1] // 2) * (latent_shape[2] // 2)
        schedule = importlib.import_module("library.flux_train_utils").get_schedule
        return torch.tensor(schedule(steps, tokens, shift=self.shifted))


def pack(z_BCHW: torch.Tensor) -> torch.Tensor:
    """Return tokens [B, T, 4 C]: each is 2 x 2 latents, channels outermost."""
    count, channels, height, width = z_BCHW.shape
    tiles = z_BCHW.reshape(count, channels, height // 2, 2, width // 2, 2)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(count, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return latents [B, C, H, W] of tokens [B, T, 4 C]."""
    count, _, features = tokens.shape
    tiles = tokens.reshape(count, height // 2, width // 2, features // 4, 2, 2)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(count, features // 4, height, width)


def image_ids(count: int, rows: int, columns: int) -> torch.Tensor:
    """Return the position of every token [B, T, 3]: 0, row, column."""
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    return torch.nn.functional.pad(places, (1, 0)).expand(count, -1, -1)


def _adapter(trainer: Any, args: Namespace) -> FluxAdapter:
    return FluxAdapter(float(args.guidance_scale), args.apply_t5_attn_mask, shifted=not trainer.is_schnell)


_QKV, _CHROMA = "double_blocks.0.img_attn.qkv.weight", "distilled_guidance_layer."

FLUX = Architecture(
    model_type="flux",
    names=FAMILIES["flux"],
    script="flux_train_network",
    trainer="FluxNetworkTrainer",
    network_module="networks.lora_flux",
    adapter=_adapter,
    fixed={"model_type": "flux"},
    **with_files("clip_l", "t5xxl", "ae"),
    folders=(MODEL,),
    kinds=(
        Kind(FAMILIES["flux"].title, (_QKV,), (_CHROMA, "double_stream_modulation", "byt5_in.")),
        Kind(FAMILIES["flux"].title, ("single_transformer_blocks.0.", "time_text_embed."), (_CHROMA,)),
    ),
    blocks=("double_blocks", "single_blocks"),
    calls=CALLS,
)

CHROMA = replace(
    FLUX,
    model_type="chroma",
    title="Chroma",
    # its authors removed the guidance input of FLUX.1 dev, and trained it with masked texts
    fixed={"model_type": "chroma", "guidance_scale": 0.0, "apply_t5_attn_mask": True},
    **with_files("t5xxl", "ae"),
    folders=(),
    kinds=(Kind("Chroma", ("double_blocks.0.", _CHROMA)),),
)
