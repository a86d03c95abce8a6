"""The architectures of sd-scripts, by the preset's model_type. A new one is an adapter file and a row here."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from danceopd_ext.models.layer_names import LayerNames
from danceopd_ext.models.sd3 import StableDiffusion3
from danceopd_ext.toolkits.hosted.adapter import Adapter
from danceopd_ext.toolkits.sd_scripts.sd3 import Sd3Adapter


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the mixin needs to know about one of the toolkit's trainers.

    script, trainer: module and class in the checkout. adapter: makes the adapter of a run, from the toolkit's
    arguments and trainer, when the network exists. network_module: makes the student and reads the teachers.
    latent_channels, latent_scale: of the VAE (pixels a latent); size_multiple: of a picture's sides, in pixels. names:
    the LoRA layer names; None where only the toolkit's own are known. fixed: arguments that this architecture always
    runs with. required, files: arguments that must be given, and that name files. drops_cached: whole captions can be
    dropped although their encodings are cached.
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
            names=StableDiffusion3(),
            files=("pretrained_model_name_or_path", "clip_l", "clip_g", "t5xxl", "vae"),
        ),
    )
}
