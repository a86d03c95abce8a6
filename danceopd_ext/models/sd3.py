"""Supports Stable Diffusion 3 and 3.5 (medium with its dual attention, large) through diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from danceopd_ext.models.family import Family, PromptTensors, SizeLimits, Sources, TextConditions, flow_match_shift
from danceopd_ext.models.layer_names import DIFFUSERS_BLOCKS, Blocks
from danceopd_ext.models.layout import Published
from danceopd_ext.models.part_files import PartFile, clip_l, t5xxl, vae_file

#: inside a block: diffusers ending -> native ending
BLOCK_NAMES = {
    "attn.to_q": "x_block.attn.qkv",
    "attn.to_k": "x_block.attn.qkv",
    "attn.to_v": "x_block.attn.qkv",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.add_q_proj": "context_block.attn.qkv",
    "attn.add_k_proj": "context_block.attn.qkv",
    "attn.add_v_proj": "context_block.attn.qkv",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.to_q": "x_block.attn2.qkv",
    "attn2.to_k": "x_block.attn2.qkv",
    "attn2.to_v": "x_block.attn2.qkv",
    "attn2.to_out.0": "x_block.attn2.proj",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
OUTER_NAMES = {
    "context_embedder": "context_embedder",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
}


class StableDiffusion3(Family):
    """The transformer takes 1000 * sigma as its time and gives dz/dsigma as it is."""

    name = "sd3"
    other_words = (
        "sd3medium", "sd35", "sd35medium", "sd35large", "stablediffusion3", "stablediffusion35",
    )  # fmt: skip
    title = "Stable Diffusion 3 / 3.5"
    file_title = "Stable Diffusion 3"
    sign = r"joint_blocks|transformer_blocks[._]\d+[._]attn2"
    shared_sign = DIFFUSERS_BLOCKS
    architecture = "stable-diffusion-v3"
    pipeline_class = "StableDiffusion3Pipeline"
    transformer_class = "SD3Transformer2DModel"
    default_components = "stabilityai/stable-diffusion-3.5-medium"
    comfyui_file = "models/checkpoints/sd3.5_medium.safetensors"
    part_files = (
        clip_l(plain_projection=True),
        PartFile(
            "text_encoder_2", "CLIP-G text encoder", ("clip_g",), ("models/text_encoders/clip_g.safetensors",),
            ("text_encoders.clip_g.transformer.",),
        ),
        t5xxl("text_encoder_3"),
        vae_file("models/vae/sd3_vae.safetensors"),
    )  # fmt: skip
    lora_targets = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0",
    )  # fmt: skip
    default_format = "diffusers"
    blocks = {"transformer_blocks": Blocks("joint_blocks", 38, BLOCK_NAMES)}  # noqa: RUF012
    outer = OUTER_NAMES
    convolutions = {"pos_embed.proj": "x_embedder.proj"}  # noqa: RUF012
    sizes = (
        Published("Stable Diffusion 3 medium", 1536, {"transformer_blocks": 24}, "stable-diffusion-v3-medium"),
        Published(
            "Stable Diffusion 3.5 medium", 1536, {"transformer_blocks": 24}, "stable-diffusion-v3.5-medium", ".attn2."
        ),
        Published("Stable Diffusion 3.5 large", 2432, {"transformer_blocks": 38}, "stable-diffusion-v3.5-large"),
    )
    checkpoint_marks = ("joint_blocks.", "pos_embed.pos_embed")
    longest_text = 256

    def encode_prompts(
        self, pipeline: Any, prompts: list[str], sources: Sequence[Sources] | None = None
    ) -> list[PromptTensors]:
        embeds, _, pooled, _ = pipeline.encode_prompt(
            list(prompts), prompt_2=None, prompt_3=None, do_classifier_free_guidance=False
        )
        pairs = zip(embeds.detach().cpu(), pooled.detach().cpu(), strict=True)
        return [{"embeds": e.contiguous(), "pooled": p.contiguous()} for e, p in pairs]

    def text_shapes(self, transformer_config: Mapping, tokens: int, sources: int) -> dict[str, tuple[int, ...]]:
        width = transformer_config["joint_attention_dim"]
        clip = 77  # the tokens of the two CLIP encoders stand before T5's
        return {"embeds": (clip + self.longest_text, width), "pooled": (transformer_config["pooled_projection_dim"],)}

    def text_length(self, pipeline: Any, prompt: str) -> int:
        words = pipeline.tokenizer if pipeline.text_encoder_3 is None else pipeline.tokenizer_3
        return len(words(prompt, verbose=False).input_ids)

    def text_room(self, pipeline: Any, transformer_config: Mapping, sources: int = 0) -> int:
        # CLIP reads less than T5; if there is a T5, the model still gets what CLIP cuts
        return pipeline.tokenizer_max_length if pipeline.text_encoder_3 is None else self.longest_text

    def velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, condition: TextConditions
    ) -> torch.Tensor:
        dtype = transformer.pos_embed.proj.weight.dtype  # transformer.dtype walks through all parameters
        return transformer(
            hidden_states=z_BCHW.to(dtype),
            timestep=sigma_B * 1000,
            encoder_hidden_states=torch.stack([item["embeds"] for item in condition.items]).to(dtype),
            pooled_projections=torch.stack([item["pooled"] for item in condition.items]).to(dtype),
            return_dict=False,
        )[0]

    def scheduler_arguments(self, scheduler: Any, transformer_config: Mapping, steps: int, latent_hw: tuple) -> dict:
        if not scheduler.config.get("use_dynamic_shifting"):
            return {"num_inference_steps": steps}
        patch = transformer_config["patch_size"]
        tokens = (latent_hw[0] // patch) * (latent_hw[1] // patch)
        mu = flow_match_shift(scheduler.config, tokens, default_max_shift=1.16)
        return {"num_inference_steps": steps, "mu": mu}

    def select_attention(self, transformer: torch.nn.Module, name: str) -> None:
        if name == "xformers":
            transformer.enable_xformers_memory_efficient_attention()
        elif name != "sdpa":
            raise ValueError('for Stable Diffusion 3, diffusers supports only "sdpa" and "xformers"')

    def size_limits(self, transformer_config: Mapping, vae_scale_factor: int) -> SizeLimits:
        pixels = transformer_config["patch_size"] * vae_scale_factor
        return SizeLimits(multiple=pixels, maximum=transformer_config["pos_embed_max_size"] * pixels)

    def swapped_layers(self, layers: Sequence[str]) -> frozenset[str]:
        # A continuous AdaLayerNorm (2 outputs an input) keeps (scale, shift); the original keeps (shift, scale).
        # norm1_context is one only in the last block: the reader and writer look at its number of outputs.
        return frozenset(n for n in layers if n == "norm_out.linear" or n.endswith("norm1_context.linear"))
