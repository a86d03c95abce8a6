"""Lists the LoRA names of FLUX.1 (dev, schnell, Kontext, Krea, Fill): one transformer, one set of names."""

from __future__ import annotations

from collections.abc import Sequence

from danceopd_ext.models.layer_names import DIFFUSERS_BLOCKS, Blocks, LayerNames
from danceopd_ext.models.layout import Published

DOUBLE = {
    "attn.to_q": "img_attn.qkv",
    "attn.to_k": "img_attn.qkv",
    "attn.to_v": "img_attn.qkv",
    "attn.to_out.0": "img_attn.proj",
    "attn.add_q_proj": "txt_attn.qkv",
    "attn.add_k_proj": "txt_attn.qkv",
    "attn.add_v_proj": "txt_attn.qkv",
    "attn.to_add_out": "txt_attn.proj",
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
SINGLE = {
    "attn.to_q": "linear1",
    "attn.to_k": "linear1",
    "attn.to_v": "linear1",
    "proj_mlp": "linear1",
    "proj_out": "linear2",
    "norm.linear": "modulation.lin",
}
#: DiffSynth-Studio's names -> the native ones
DIFFSYNTH = {
    "attn.a_to_qkv": "img_attn.qkv",
    "attn.b_to_qkv": "txt_attn.qkv",
    "attn.a_to_out": "img_attn.proj",
    "attn.b_to_out": "txt_attn.proj",
    "ff_a.0": "img_mlp.0",
    "ff_a.2": "img_mlp.2",
    "ff_b.0": "txt_mlp.0",
    "ff_b.2": "txt_mlp.2",
    "norm1_a.linear": "img_mod.lin",
    "norm1_b.linear": "txt_mod.lin",
}
DIFFSYNTH_SINGLE = {"to_qkv_mlp": "linear1", "proj_out": "linear2", "norm.linear": "modulation.lin"}
#: XLabs' and USO's trainers name the attention processors; `lora1` is the image's, `lora2` the text's
TOOLS = {
    **{f"blocks.{{}}.{theirs}": (f"double_blocks.{{}}.{native}", None) for theirs, native in DIFFSYNTH.items()},
    **{
        f"single_blocks.{{}}.{theirs}": (f"single_blocks.{{}}.{native}", None)
        for theirs, native in DIFFSYNTH_SINGLE.items()
    },
    "double_blocks.{}.qkv_lora1": ("double_blocks.{}.img_attn.qkv", None),
    "double_blocks.{}.qkv_lora2": ("double_blocks.{}.txt_attn.qkv", None),
    "double_blocks.{}.proj_lora1": ("double_blocks.{}.img_attn.proj", None),
    "double_blocks.{}.proj_lora2": ("double_blocks.{}.txt_attn.proj", None),
    "single_blocks.{}.qkv": ("single_blocks.{}.linear1", 3),
    "single_blocks.{}.linear1_qkv": ("single_blocks.{}.linear1", 3),
    "single_blocks.{}.proj": ("single_blocks.{}.linear2", None),
}


class FluxNames(LayerNames):
    """`linear1` of a single block is q, k, v and the first half of the MLP, which is four times as large as q."""

    name = "flux"
    other_words = ("flux1", "fluxdev", "flux1dev", "fluxschnell", "flux1schnell")
    title = "FLUX.1"
    file_title = "FLUX.1"
    # FLUX.2 has the same names and more, and is tried first
    sign = r"double_blocks|single_blocks|single_transformer_blocks"
    sign_title = "FLUX"
    shared_sign = DIFFUSERS_BLOCKS
    architecture = "flux-1-dev"
    lora_targets = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp",
    )  # fmt: skip
    # kohya's names fuse q, k, v and MLP into one layer and fill gaps with zeros: twice the size
    default_format = "diffusers"
    blocks = {  # noqa: RUF012
        "transformer_blocks": Blocks("double_blocks", 19, DOUBLE),
        "single_transformer_blocks": Blocks("single_blocks", 38, SINGLE),
    }
    outer = {  # noqa: RUF012
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
        "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
        "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "proj_out": "final_layer.linear",
    }
    tool_names = TOOLS
    outer_fate = {"kohya": "InvokeAI rejects the whole file"}  # noqa: RUF012
    sizes = (Published("FLUX.1", 3072, {"transformer_blocks": 19, "single_transformer_blocks": 38}),)
    ratios = {"proj_mlp": 4, "ff.net.0.proj": 4, "ff_context.net.0.proj": 4}  # noqa: RUF012

    def swapped_layers(self, layers: Sequence[str]) -> frozenset[str]:
        return frozenset({"norm_out.linear"}.intersection(layers))
