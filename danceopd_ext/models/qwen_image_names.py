"""Lists the LoRA names of Qwen-Image and Qwen-Image-Edit. The original names are diffusers' names; nothing is fused."""

from __future__ import annotations

from danceopd_ext.models.layer_names import DIFFUSERS_BLOCKS, Blocks, LayerNames
from danceopd_ext.models.layout import Published

ATTENTION = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
)  # fmt: skip
MLP = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")
MODULATION = ("img_mod.1", "txt_mod.1")
OUTER = (
    "img_in", "txt_in", "norm_out.linear", "proj_out",
    "time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2",
)  # fmt: skip


class QwenImageNames(LayerNames):
    """The same names everywhere."""

    name = "qwen_image"
    other_words = ("qwen",)
    title = "Qwen-Image"
    file_title = "Qwen-Image"
    sign = r"transformer_blocks[._]\d+[._](img_mlp|txt_mlp|img_mod|txt_mod)"
    shared_sign = DIFFUSERS_BLOCKS
    architecture = "qwen-image"
    lora_targets = ATTENTION + MLP
    default_format = "kohya"
    blocks = {  # noqa: RUF012
        "transformer_blocks": Blocks(
            "transformer_blocks", 60, {layer: layer for layer in ATTENTION + MLP + MODULATION}
        ),
    }
    sizes = (Published("Qwen-Image", 3072, {"transformer_blocks": 60}),)
    outer = {layer: layer for layer in OUTER}  # noqa: RUF012
