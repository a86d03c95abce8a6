"""A family's own pipeline called for its latents, and the same latents by our rollout."""

from __future__ import annotations

from collections.abc import Sequence

import diffusers
import torch
from PIL import Image

from danceopd_ext.method import rollout
from danceopd_ext.models.conditions import TextConditions, edit_item
from danceopd_ext.models.family import Family, Sources
from danceopd_ext.models.packing import pack, unpack

STEPS = 4


def pictures(count: int) -> list[Image.Image]:
    """Noise pictures of different sizes, the first a little larger than what models of whole squares take."""
    sizes = ((82, 66), (64, 104), (72, 72))
    return [Image.effect_noise(size, 40 + 20 * i).convert("RGB").rotate(90 * i) for i, size in enumerate(sizes[:count])]


def noise_for(family: Family, pipeline, size: tuple[int, int], samples: int = 1, seed: int = 0) -> torch.Tensor:
    shape = family.latent_shape(pipeline.transformer.config, pipeline.vae_scale_factor, *size)
    return torch.randn(samples, *shape, generator=torch.Generator().manual_seed(seed))


def theirs(
    family: Family,
    pipeline,
    prompt: str,
    noise: torch.Tensor,
    size: tuple[int, int],
    scale: float = 1.0,
    images: Sequence[Image.Image] = (),
    steps: int = STEPS,
) -> torch.Tensor:
    """The pipeline's latents in our form; `scale` is the usual one of classifier-free guidance."""
    call = {"width": size[0], "height": size[1], "num_inference_steps": steps, "output_type": "latent"}
    name = family.name
    if images:
        call["image"] = list(images) if family.max_sources > 1 else images[0]
    elif name.startswith("qwen_image_edit"):
        pipeline = drawing(pipeline)
    if name.startswith(("flux_2", "sd3", "z_image")):
        call["latents"] = noise.clone()
    else:
        call |= {"latents": pack(noise), "negative_prompt": "", "true_cfg_scale": scale}
    if name == "flux_kontext":
        call |= {"max_area": size[0] * size[1], "guidance_scale": family.embedded_guidance}
    if name in ("sd3", "flux_2_klein"):
        call["guidance_scale"] = scale
    if name.startswith("z_image"):
        call["guidance_scale"] = scale - 1  # it adds scale * (text - empty) to the text velocity
    if name in ("sd3", "z_image", "z_image_omni"):
        call["negative_prompt"] = ""
    latents = pipeline(prompt=prompt, **call).images
    return as_ours(name, pipeline, latents, noise.shape)


def drawing(pipeline) -> diffusers.QwenImagePipeline:
    """Qwen-Image's pipeline, which draws from text, made of the parts of one that edits."""
    parts = {name: part for name, part in pipeline.components.items() if name != "processor"}
    return diffusers.QwenImagePipeline(**parts)


def as_ours(name: str, pipeline, latents: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    if name == "flux_2":
        return latents.mT.reshape(shape)
    if name == "flux_2_klein":  # it gives the VAE's latents
        mean, variance = (t.view(1, -1, 1, 1) for t in (pipeline.vae.bn.running_mean, pipeline.vae.bn.running_var))
        return (torch.nn.functional.pixel_unshuffle(latents, 2) - mean) / (
            variance + pipeline.vae.config.batch_norm_eps
        ).sqrt()
    return unpack(latents, *shape[2:]) if latents.ndim == 3 else latents


def conditions(
    family: Family,
    pipeline,
    prompts: Sequence[str],
    images: Sequence[Sequence[Image.Image]] | None = None,
    size: tuple[int, int] = (32, 32),
):
    """The conditions of these prompts with their source images, for pictures of this size."""
    if not images:
        texts = family.encode_prompts(pipeline, [*prompts, ""])
        return TextConditions(texts[:-1], texts[-1])
    given = [Sources(own, size) for own in images]
    texts = family.encode_prompts(pipeline, list(prompts), given)
    empties = family.encode_prompts(pipeline, [""] * len(prompts), given)
    sources = [family.encode_sources(pipeline.vae, own) for own in given]
    return TextConditions([edit_item(*parts) for parts in zip(texts, sources, empties, strict=True)], empty={})


@torch.no_grad()
def ours(family: Family, pipeline, condition: TextConditions, noise: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Noise to latents with our rollout on our sigma grid."""
    sigmas = family.sigmas(pipeline.scheduler, pipeline.transformer.config, STEPS, tuple(noise.shape[-2:]))

    def field(z, sigma, c):
        return family.velocity(pipeline.transformer, z, sigma, c)

    end = torch.full((len(noise), 1), STEPS)
    return rollout(family.guided(field, scale), noise, sigmas, condition, end)[:, 0]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
