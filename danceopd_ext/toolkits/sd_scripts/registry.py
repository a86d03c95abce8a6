"""The architectures of sd-scripts, by the preset's model_type. A new one is an adapter file and a row here."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from danceopd_ext.models.flux_names import FluxNames
from danceopd_ext.models.hunyuan_image_names import HunyuanImageNames
from danceopd_ext.models.layer_names import LayerNames
from danceopd_ext.models.sd3 import StableDiffusion3
from danceopd_ext.toolkits.hosted.adapter import Adapter
from danceopd_ext.toolkits.hosted.border import Call
from danceopd_ext.toolkits.hosted.refuse import Rule, rules, switched_on
from danceopd_ext.toolkits.hosted.teachers import autocast_dtype
from danceopd_ext.toolkits.sd_scripts import anima, flux, hunyuan_image, lumina, sd3
from danceopd_ext.toolkits.sd_scripts.anima import AnimaAdapter
from danceopd_ext.toolkits.sd_scripts.flux import FluxAdapter
from danceopd_ext.toolkits.sd_scripts.hunyuan_image import HunyuanImageAdapter
from danceopd_ext.toolkits.sd_scripts.lumina import LuminaAdapter
from danceopd_ext.toolkits.sd_scripts.sd3 import Sd3Adapter, mend_second_attention


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the mixin needs to know about one of the toolkit's trainers.

    script, trainer: module and class in the checkout. adapter: makes the adapter of a run, from the toolkit's
    arguments and trainer, when the network exists. network_module: makes the student and reads the teachers.
    latent_channels, latent_scale: of the VAE (pixels a latent); size_multiple: of a picture's sides, in pixels. names:
    the LoRA layer names; None where only the toolkit's own are known. fixed: arguments that this architecture always
    runs with. required, files: arguments that must be given, and that name files. drops_cached: whole captions can be
    dropped although their encodings are cached. mend: corrects the loaded transformer where the toolkit is wrong, and
    says so. calls: what the adapter calls of the toolkit. refused: arguments that its trainer takes and does not use.
    """

    model_type: str
    title: str
    script: str
    trainer: str
    adapter: Callable[[Namespace, Any], Adapter]
    network_module: str
    latent_channels: int = 16
    latent_scale: int = 8
    size_multiple: int = 16
    names: LayerNames | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ("pretrained_model_name_or_path",)
    files: tuple[str, ...] = ("pretrained_model_name_or_path",)
    drops_cached: bool = False
    mend: Callable[[torch.nn.Module], str | None] = lambda transformer: None
    calls: tuple[Call, ...] = ()
    refused: tuple[Rule, ...] = ()


NO_FP8 = "sd-scripts ignores it for this model."


def _flux(args: Namespace, trainer: Any) -> FluxAdapter:
    return FluxAdapter(float(args.guidance_scale), args.apply_t5_attn_mask, shifted=not trainer.is_schnell)


def _with(*files: str) -> dict[str, tuple[str, ...]]:
    """These files must be given beside the model itself."""
    names = ("pretrained_model_name_or_path", *files)
    return {"required": names, "files": names}


ARCHITECTURES: dict[str, Architecture] = {
    architecture.model_type: architecture
    for architecture in (
        Architecture(
            model_type="sd3",
            title="Stable Diffusion 3 / 3.5",
            script="sd3_train_network",
            trainer="Sd3NetworkTrainer",
            adapter=lambda args, trainer: Sd3Adapter(),
            network_module="networks.lora_sd3",
            calls=sd3.CALLS,
            names=StableDiffusion3(),
            files=("pretrained_model_name_or_path", "clip_l", "clip_g", "t5xxl", "vae"),
            mend=mend_second_attention,
        ),
        Architecture(
            model_type="flux",
            title="FLUX.1",
            script="flux_train_network",
            trainer="FluxNetworkTrainer",
            adapter=_flux,
            network_module="networks.lora_flux",
            calls=flux.CALLS,
            names=FluxNames(),
            fixed={"model_type": "flux"},
            **_with("clip_l", "t5xxl", "ae"),
        ),
        Architecture(
            model_type="chroma",
            title="Chroma",
            script="flux_train_network",
            trainer="FluxNetworkTrainer",
            adapter=_flux,
            network_module="networks.lora_flux",
            calls=flux.CALLS,
            names=FluxNames(),
            # its authors removed the guidance that FLUX.1 dev has learnt, and it is trained with masked texts
            fixed={"model_type": "chroma", "guidance_scale": 0.0, "apply_t5_attn_mask": True},
            **_with("t5xxl", "ae"),
        ),
        Architecture(
            model_type="lumina",
            title="Lumina Image 2.0",
            script="lumina_train_network",
            trainer="LuminaNetworkTrainer",
            adapter=lambda args, trainer: LuminaAdapter(),
            network_module="networks.lora_lumina",
            calls=lumina.CALLS,
            **_with("gemma2", "ae"),
        ),
        Architecture(
            model_type="hunyuan_image",
            title="HunyuanImage-2.1",
            script="hunyuan_image_train_network",
            trainer="HunyuanImageNetworkTrainer",
            adapter=lambda args, trainer: HunyuanImageAdapter(),
            network_module="networks.lora_hunyuan_image",
            calls=hunyuan_image.CALLS,
            refused=rules("fp8_base fp8_base_unet", switched_on, NO_FP8, "Write fp8_scaled = true instead."),
            latent_channels=64,
            latent_scale=32,
            size_multiple=32,
            names=HunyuanImageNames(),
            **_with("text_encoder", "byt5", "vae"),
        ),
        Architecture(
            model_type="anima",
            title="Anima",
            script="anima_train_network",
            trainer="AnimaNetworkTrainer",
            adapter=lambda args, trainer: AnimaAdapter(autocast_dtype(args.mixed_precision)),
            network_module="networks.lora_anima",
            calls=anima.CALLS,
            refused=rules(
                "fp8_base fp8_base_unet", switched_on, NO_FP8, "Remove it; blocks_to_swap saves memory, too."
            ),
            drops_cached=True,
            **_with("qwen3", "vae"),
        ),
    )
}
