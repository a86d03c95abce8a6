"""Lists the LoRA names of FLUX.2 (dev and Klein)."""

from __future__ import annotations

from collections.abc import Sequence

from danceopd_ext.models.layer_names import Blocks, LayerNames
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
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
#: fused in diffusers too
SINGLE = {"attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2"}


def _published(title: str, architecture: str, width: int, double: int, single: int) -> Published:
    depths = {"transformer_blocks": double, "single_transformer_blocks": single}
    return Published(title, width, depths, architecture)


class Flux2Names(LayerNames):
    """Block names are FLUX.1's, but blocks have no modulation of their own and the MLPs are gated."""

    name = "flux_2"
    other_words = ("flux2dev",)
    title = "FLUX.2"
    file_title = "FLUX.2"
    sign = r"to_qkv_mlp_proj|ff(_context)?[._]linear_(in|out)|(double|single)_stream_modulation"
    architecture = "Flux.2-dev"
    lora_targets = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        "ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out",
        "attn.to_qkv_mlp_proj", "attn.to_out",
    )  # fmt: skip
    default_format = "kohya"
    blocks = {  # noqa: RUF012
        "transformer_blocks": Blocks("double_blocks", 8, DOUBLE),
        "single_transformer_blocks": Blocks("single_blocks", 48, SINGLE),
    }
    outer = {  # noqa: RUF012
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
        "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
        "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
        "single_stream_modulation.linear": "single_stream_modulation.lin",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "proj_out": "final_layer.linear",
    }
    outer_fate = {  # noqa: RUF012
        "kohya": "diffusers ignores some",
        "comfyui": "diffusers swaps the halves of norm_out.linear",
    }
    sizes = (
        _published("FLUX.2 dev", "Flux.2-dev", 6144, 8, 48),
        _published("FLUX.2 Klein 4B", "Flux.2-klein-4b", 3072, 5, 20),
        _published("FLUX.2 Klein 9B", "Flux.2-klein-9b", 4096, 8, 24),
    )
    ratios = {"to_qkv_mlp_proj": 9, "ff.linear_in": 6, "ff_context.linear_in": 6}  # noqa: RUF012

    def swapped_layers(self, layers: Sequence[str]) -> frozenset[str]:
        return frozenset({"norm_out.linear"}.intersection(layers))
