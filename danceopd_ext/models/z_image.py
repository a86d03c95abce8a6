"""Z-Image (Tongyi-MAI/Z-Image and Z-Image-Turbo) through diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from danceopd_ext.models.family import Family, PromptTensors, SizeLimits, Sources, TextConditions, flow_match_shift
from danceopd_ext.models.layer_names import Blocks

#: inside a context refiner block: diffusers name -> native name
REFINER = {
    "attention.to_q": "attention.qkv",
    "attention.to_k": "attention.qkv",
    "attention.to_v": "attention.qkv",
    "attention.to_out.0": "attention.out",
    "feed_forward.w1": "feed_forward.w1",
    "feed_forward.w2": "feed_forward.w2",
    "feed_forward.w3": "feed_forward.w3",
}
#: the other blocks also know the time
MODULATED = {**REFINER, "adaLN_modulation.0": "adaLN_modulation.0"}
OUTER_NAMES = {
    "all_x_embedder.2-1": "x_embedder",
    "all_final_layer.2-1.linear": "final_layer.linear",
    "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
    "cap_embedder.1": "cap_embedder.1",
    "t_embedder.mlp.0": "t_embedder.mlp.0",
    "t_embedder.mlp.2": "t_embedder.mlp.2",
}


class ZImage(Family):
    """The transformer takes 1 - sigma as its time and gives -dz/dsigma; captions are a list, each of its own length."""

    name = "z_image"
    title = "Z-Image"
    architecture = "z-image"
    pipeline_class = "ZImagePipeline"
    transformer_class = "ZImageTransformer2DModel"
    default_components = "Tongyi-MAI/Z-Image"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3")
    default_format = "comfyui"
    file_names = {"kohya_names": "native", "comfyui_names": "diffusers"}  # noqa: RUF012
    blocks = {  # noqa: RUF012
        "layers": Blocks("layers", 30, MODULATED),
        "noise_refiner": Blocks("noise_refiner", 2, MODULATED),
        "context_refiner": Blocks("context_refiner", 2, REFINER),
    }
    outer = OUTER_NAMES
    checkpoint_marks = ("x_pad_token", "cap_pad_token")

    def encode_prompts(
        self, pipeline: Any, prompts: list[str], sources: Sequence[Sources] | None = None
    ) -> list[PromptTensors]:
        embeds, _ = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        return [{"embeds": e.detach().cpu().contiguous()} for e in embeds]

    def velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, condition: TextConditions
    ) -> torch.Tensor:
        dtype = transformer.x_pad_token.dtype  # transformer.dtype walks through all parameters
        images = list(z_BCHW.to(dtype).unsqueeze(2).unbind(0))  # each [C, 1, H, W]: one frame
        captions = [item["embeds"].to(dtype) for item in condition.items]
        time = (1000 - sigma_B * 1000) / 1000  # the pipeline's own arithmetic
        out = transformer(images, time, captions, return_dict=False)[0]
        return -torch.stack([o.float() for o in out]).squeeze(2)

    def scheduler_arguments(self, scheduler: Any, transformer_config: Mapping, steps: int, latent_hw: tuple) -> dict:
        tokens = (latent_hw[0] // 2) * (latent_hw[1] // 2)
        sigmas = torch.linspace(1.0, 1 / steps, steps).tolist()
        return {"sigmas": sigmas, "mu": flow_match_shift(scheduler.config, tokens, default_max_shift=1.15)}

    def size_limits(self, transformer_config: Mapping, vae_scale_factor: int) -> SizeLimits:
        patch = max(transformer_config["all_patch_size"])
        places = min(transformer_config["axes_lens"][1:])
        return SizeLimits(multiple=vae_scale_factor * patch, maximum=places * patch * vae_scale_factor)
