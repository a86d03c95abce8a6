"""Describes the parts of a model that creators have as files of their own: ComfyUI's and kohya's split files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: where tensors of the VAE stand in a checkpoint that includes it: the original releases', and ComfyUI's
VAE_INSIDE = ("first_stage_model.", "vae.")


@dataclass(frozen=True)
class PartFile:
    """A part of a family's pipeline that can come as one .safetensors file.

    component: its folder in a diffusers pipeline. title: for messages. keys: the preset's keys for it; messages name
    the first. comfyui: where ComfyUI keeps it, the usual file first. inside: prefixes of its tensors in a checkpoint
    that includes it.
    """

    component: str
    title: str
    keys: tuple[str, ...]
    comfyui: tuple[str, ...]
    inside: tuple[str, ...] = ()
    #: the last hidden state that the pipeline reads, if published files leave out the layers behind it
    last_state: int | None = None
    #: whether the model uses the pooled text as it is: diffusers' projection is then the identity, whatever a file has
    plain_projection: bool = False

    @property
    def key(self) -> str:
        return self.keys[0]

    def described_in(self, components: Path) -> bool:
        """Return whether this diffusers folder has the part's configuration."""
        return (components / self.component / "config.json").is_file()


def vae_file(*comfyui: str) -> PartFile:
    """Return a family's VAE; sd-scripts calls it vae or ae."""
    return PartFile("vae", "VAE", ("vae", "ae"), comfyui, VAE_INSIDE)


def clip_l(*keys: str, plain_projection: bool = False) -> PartFile:
    """Return CLIP-L, the first text encoder of SD3 and FLUX.1."""
    return PartFile(
        "text_encoder", "CLIP-L text encoder", ("clip_l", *keys), ("models/text_encoders/clip_l.safetensors",),
        ("text_encoders.clip_l.transformer.",), plain_projection=plain_projection,
    )  # fmt: skip


def t5xxl(component: str, *keys: str) -> PartFile:
    """Return T5-XXL, the last text encoder of SD3 and FLUX.1."""
    return PartFile(
        component, "T5-XXL text encoder", ("t5xxl", *keys),
        ("models/text_encoders/t5xxl_fp16.safetensors", "models/text_encoders/t5xxl_fp8_e4m3fn.safetensors"),
        ("text_encoders.t5xxl.transformer.",),
    )  # fmt: skip
