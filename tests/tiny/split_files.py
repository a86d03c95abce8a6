"""The files that ComfyUI keeps a model's parts in, made from a tiny pipeline with the original releases' names."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import diffusers
import torch
from safetensors.torch import save_file

from danceopd_ext.models.part_files import PartFile
from danceopd_ext.models.registry import FAMILIES
from tests.tiny.families.parts import randomise
from tests.tiny.pipelines import ALL, save
from tests.tiny.single_file import to_single_file

#: diffusers' names of a VAE -> those of the latent diffusion release, in order
LDM = (
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
    (r"down_blocks\.(\d+)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
)
#: Wan's names of the layers of a residual block
RESIDUAL = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}


def ldm_names(vae: torch.nn.Module) -> dict[str, torch.Tensor]:
    """FLUX.1's, SD3's and FLUX.2's: blocks of the decoder are counted from its end, attention is a convolution."""
    last, named = len(vae.config.up_block_types) - 1, {}
    for name, tensor in vae.state_dict().items():
        for ours, theirs in LDM:
            name = re.sub(ours, theirs, name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{last - int(found[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{last - int(found[1])}.upsample", name)
        convolution = ".mid.attn_1." in name and tensor.ndim == 2
        named[name] = tensor[:, :, None, None].clone() if convolution else tensor.clone()
    return named


def wan_names(vae: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Qwen-Image's: all blocks of the encoder and decoder are counted through; a block has 3 layers and a sampler."""
    named = {}
    for name, tensor in vae.state_dict().items():
        name = re.sub(r"^quant_conv", "conv1", re.sub(r"^post_quant_conv", "conv2", name))
        name = name.replace("conv_in.", "conv1.").replace("norm_out.", "head.0.").replace("conv_out.", "head.2.")
        name = re.sub(r"mid_block\.attentions\.0", "middle.1", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"middle.{2 * int(found[1])}", name)
        name = name.replace("encoder.down_blocks", "encoder.downsamples")
        name = re.sub(
            r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda found: f"upsamples.{4 * int(found[1]) + int(found[2])}", name
        )
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"upsamples.{4 * int(found[1]) + 3}", name)
        for ours, theirs in RESIDUAL.items():
            name = re.sub(rf"(samples\.\d+|middle\.\d)\.{ours}\.", rf"\1.{theirs}.", name)
        named[name.replace("conv_shortcut", "shortcut")] = tensor.clone()
    return named


def text_names(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Those of the transformers of the release's time: no layer of words, a text part first, no copies."""
    kind, named = type(encoder).__name__, {}
    for name, tensor in encoder.state_dict().items():
        if kind == "CLIPTextModel" and not name.startswith("text_model."):
            name = f"text_model.{name}"
        if kind == "Qwen3Model":
            name = f"model.{name}"
        name = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        if name.startswith("model.vision_tower") or "multi_modal_projector" in name:
            continue  # ComfyUI's Mistral has no eyes
        if name not in ("lm_head.weight", "encoder.embed_tokens.weight"):
            named[name] = tensor.clone()
    return named


def part_tensors(family: str, pipeline: diffusers.DiffusionPipeline, spec: PartFile) -> dict[str, torch.Tensor]:
    """The tensors of one part as ComfyUI's file has them."""
    module = getattr(pipeline, spec.component)
    if spec.component != "vae":
        named = text_names(module)
        return {n: t for n, t in named.items() if not (spec.plain_projection and n == "text_projection.weight")}
    named = wan_names(module) if family.startswith("qwen_image") else ldm_names(module)
    if family.startswith("flux_2"):  # Black Forest Labs' own file has these inside
        named = {re.sub(r"^quant_conv", "encoder.quant_conv", n): t for n, t in named.items()}
        named = {re.sub(r"^post_quant_conv", "decoder.post_quant_conv", n): t for n, t in named.items()}
        named.pop("bn.num_batches_tracked")
    return named


def write(path: Path, tensors: Mapping[str, torch.Tensor], prefix: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({prefix + name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def like_published(family: str, seed: int = 0) -> diffusers.DiffusionPipeline:
    """The family's tiny pipeline, as like the published models as its parts' files need it."""
    pipeline = ALL[family](seed)
    for name, part in pipeline.components.items():
        if name.startswith("text_encoder"):
            randomise(part, seed, scale=0.3)
    for spec in FAMILIES[family].part_files:
        if spec.plain_projection:
            projection = getattr(pipeline, spec.component).text_projection.weight
            projection.data = torch.eye(*projection.shape)
    if family.startswith("qwen_image"):  # Wan's names count on three layers in each block of the decoder
        torch.manual_seed(seed)
        pipeline.vae = diffusers.AutoencoderKLQwenImage.from_config({**pipeline.vae.config, "num_res_blocks": 2}).eval()
    return pipeline


def to_comfyui(family: str, pipeline: diffusers.DiffusionPipeline, folder: Path) -> dict[str, str]:
    """Write every part and the transformer where ComfyUI keeps them; preset key -> file."""
    spec_files = {
        spec.key: write(folder / spec.comfyui[0], part_tensors(family, pipeline, spec))
        for spec in FAMILIES[family].part_files
    }
    transformer = folder / FAMILIES[family].comfyui_file
    transformer.parent.mkdir(parents=True, exist_ok=True)
    to_single_file(family, pipeline.transformer, transformer, "model.diffusion_model.")
    files = {"pretrained_model_name_or_path": transformer, **spec_files}
    return {key: str(file) for key, file in files.items()}


def without_weights(folder: Path, target: Path) -> Path:
    """A copy of a diffusers folder without any weights: configurations, tokenizers and scheduler."""
    return Path(shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json")))


def save_both(family: str, folder: Path) -> tuple[Path, Path, dict[str, str]]:
    """A family's tiny pipeline as a diffusers folder, the same without weights, and as ComfyUI's files."""
    pipeline = like_published(family)
    files = to_comfyui(family, pipeline, folder / "ComfyUI")
    whole = save(pipeline, folder / "whole")
    return whole, without_weights(whole, folder / "small"), files
