"""The single-file checkpoints that the original releases and ComfyUI use, made from a tiny diffusers transformer."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from danceopd_ext.models.registry import FAMILIES

#: per family: (ending in diffusers, ending in the original), for what is not a linear layer
NORMS = {
    "sd3": [
        ("attn.norm_q", "x_block.attn.ln_q"), ("attn.norm_k", "x_block.attn.ln_k"),
        ("attn.norm_added_q", "context_block.attn.ln_q"), ("attn.norm_added_k", "context_block.attn.ln_k"),
        ("attn2.norm_q", "x_block.attn2.ln_q"), ("attn2.norm_k", "x_block.attn2.ln_k"),
        ("pos_embed.proj", "x_embedder.proj"), ("transformer_blocks", "joint_blocks"),
    ],
    "z_image": [("attention.norm_q", "attention.q_norm"), ("attention.norm_k", "attention.k_norm")],
    "flux_2": [
        ("single_transformer_blocks", "single_blocks"), ("transformer_blocks", "double_blocks"),
        ("attn.norm_q.weight", "img_attn.norm.query_norm.scale"),
        ("attn.norm_k.weight", "img_attn.norm.key_norm.scale"),
        ("attn.norm_added_q.weight", "txt_attn.norm.query_norm.scale"),
        ("attn.norm_added_k.weight", "txt_attn.norm.key_norm.scale"),
    ],
    "qwen_image": [],
}  # fmt: skip
SAME_NAMES = {
    "flux": "flux_2",
    "flux_kontext": "flux_2",
    "flux_2_klein": "flux_2",
    "qwen_image_edit": "qwen_image",
    "qwen_image_edit_plus": "qwen_image",
    "z_image_omni": "z_image",
}


def to_single_file(family_name: str, transformer: torch.nn.Module, path: Path, prefix: str = "") -> Path:
    """Write the transformer under its original names: q, k and v fused, AdaLN halves in the original order."""
    layout = FAMILIES[family_name].layout(transformer)
    state = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    original: dict[str, torch.Tensor] = {}
    for native, parts in layout.native.items():
        for kind in ("weight", "bias"):
            tensors = [state.pop(f"{part}.{kind}") for part in parts if f"{part}.{kind}" in state]
            if not tensors:
                continue
            fused = torch.cat(tensors)
            outputs, inputs = layout.shapes[parts[0]]
            if parts[0] in layout.swapped and outputs == 2 * inputs:
                fused = torch.cat(fused.chunk(2)[::-1])
            original[f"{native}.{kind}"] = fused
    for name, tensor in state.items():
        for ours, theirs in NORMS[SAME_NAMES.get(family_name, family_name)]:
            name = name.replace(ours, theirs)
        if name.startswith("single_blocks"):
            name = name.replace("img_attn.norm", "norm")
        original["pos_embed" if name == "pos_embed.pos_embed" else name] = tensor
    save_file({prefix + name: tensor.contiguous() for name, tensor in original.items()}, path)
    return path
