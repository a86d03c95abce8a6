"""Small random transformers of each family, their LoRAs, and files built by hand."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from diffusers import (
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)
from safetensors.torch import save_file

from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.models.layout import Layout
from danceopd_ext.models.registry import NAMES


def make(family: str) -> torch.nn.Module:
    """A transformer of two blocks of each kind."""
    heads = {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 24}
    if family == "sd3":
        return SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, caption_projection_dim=32, pooled_projection_dim=16,
            out_channels=4, pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm", **heads,
        )  # fmt: skip
    if family == "flux":
        return FluxTransformer2DModel(
            in_channels=16, num_single_layers=2, pooled_projection_dim=16, guidance_embeds=True,
            axes_dims_rope=(4, 6, 6), **heads,
        )  # fmt: skip
    if family == "flux_2":
        return Flux2Transformer2DModel(
            in_channels=16, num_single_layers=2, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), **heads
        )
    if family == "qwen_image":
        return QwenImageTransformer2DModel(in_channels=16, out_channels=4, axes_dims_rope=(4, 6, 6), **heads)
    return ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=24,
        axes_dims=[4, 6, 6], axes_lens=[64, 32, 32],
    )  # fmt: skip


def build(family: str) -> torch.nn.Module:
    """`make`, with every parameter random (models start with zero outputs otherwise)."""
    torch.manual_seed(0)
    model = make(family)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    # frozen, as every base is: torch picks another convolution for weights that ask for gradients
    return model.requires_grad_(False).eval()


@functools.cache
def shared(family: str) -> torch.nn.Module:
    """The same model for all tests that do not change it."""
    return build(family)


def layout(family: str) -> Layout:
    return NAMES[family].layout(shared(family))


def velocity(family: str, model: torch.nn.Module) -> torch.Tensor:
    """One forward pass on fixed inputs."""
    generator = torch.Generator().manual_seed(7)
    dtype = model.dtype

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    if family == "z_image":
        out = model([noise(4, 1, 8, 8)], torch.tensor([0.3]), [noise(5, 24)], return_dict=False)[0]
        return torch.stack(out)
    text = {"encoder_hidden_states": noise(2, 5, 24), "return_dict": False}
    if family == "sd3":
        picture, time = noise(2, 4, 8, 8), torch.tensor([300.0, 700.0])
        return model(picture, pooled_projections=noise(2, 16), timestep=time, **text)[0]
    packed = {"hidden_states": noise(2, 16, 16), "timestep": torch.tensor([0.3, 0.7]), **text}
    if family == "qwen_image":
        return model(img_shapes=[[(1, 4, 4)]] * 2, **packed)[0]
    axes = 4 if family == "flux_2" else 3
    places = {"img_ids": torch.arange(16.0)[:, None].repeat(1, axes), "txt_ids": torch.zeros(5, axes)}
    more = {"pooled_projections": noise(2, 16)} if family == "flux" else {}
    return model(guidance=torch.ones(2), **packed, **places, **more)[0]


def random_lora(family: str, rank: int = 3, seed: int = 1, only: str = "") -> Lora:
    """A LoRA of every linear layer (or of those with `only` in their names)."""
    generator = torch.Generator().manual_seed(seed)
    modules = {
        name: LowRank(
            torch.randn(rank, inputs, generator=generator) * 0.2, torch.randn(outputs, rank, generator=generator) * 0.2
        )
        for name, (outputs, inputs) in layout(family).shapes.items()
        if only in name
    }
    return Lora(modules, name="random")


def block_lora(family: str, **keywords) -> Lora:
    """A LoRA of the layers inside blocks, which every dialect can name."""
    lora = random_lora(family, **keywords)
    inside = ("transformer_blocks.", "single_transformer_blocks.", "layers.", "noise_refiner.", "context_refiner.")
    return Lora({name: change for name, change in lora.modules.items() if name.startswith(inside)}, name="blocks")


def save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path, metadata)
    return path


def keyed(changes: dict[str, LowRank], key: str, down: str, up: str, alpha: float | None = None) -> dict:
    """File tensors of layers called `key` with "{dots}" or "{bars}" in it; alpha as kohya's tools write it."""
    tensors = {}
    for name, change in changes.items():
        layer = key.format(dots=name, bars=name.replace(".", "_"))
        tensors[layer + down], tensors[layer + up] = change.down_RI, change.up_OR
        if alpha is not None:
            tensors[f"{layer}.alpha"] = torch.tensor(alpha)
    return tensors


def deltas_equal(one: Lora, other: Lora, scale: float = 1.0, tolerance: float = 1e-6) -> bool:
    """Whether `one` is `scale` times `other`; layers that one of them lacks must be zero in the other."""
    for name in one.modules.keys() | other.modules.keys():
        present = one.modules.get(name) or other.modules[name]
        zero = torch.zeros(present.shape)
        left = one.modules[name].delta() if name in one.modules else zero
        right = other.modules[name].delta() * scale if name in other.modules else zero
        if not torch.allclose(left, right, rtol=tolerance, atol=tolerance * float(right.abs().max() + 1e-12)):
            return False
    return True


@torch.no_grad()
def merged(family: str, lora: Lora) -> torch.nn.Module:
    """A separate model with the LoRA added to its weights."""
    model = build(family)
    for name, change in lora.modules.items():
        model.get_submodule(name).weight += change.delta()
    return model
