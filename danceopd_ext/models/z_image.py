"""Supports Z-Image (Tongyi-MAI/Z-Image and Z-Image-Turbo) through diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from danceopd_ext.models.family import Family, PromptTensors, SizeLimits, Sources, TextConditions, flow_match_shift
from danceopd_ext.models.layer_names import Blocks
from danceopd_ext.models.layout import Published
from danceopd_ext.models.part_files import PartFile, vae_file

#: inside a context refiner block: diffusers name -> native name
REFINER = {
    "attention.to_q": "attention.qkv",
    "attention.to_k": "attention.qkv",
    "attention.to_v": "attention.qkv",
    "attention.to_out.0": "attention.out",
    "feed_forward.w1": "feed_forward.w1",
    "feed_forward.w2": "feed_forward.w2",
    "feed_forward.w3": "feed_forward.w3",
}
#: the other blocks also know the time
MODULATED = {**REFINER, "adaLN_modulation.0": "adaLN_modulation.0"}
OUTER_NAMES = {
    "all_x_embedder.2-1": "x_embedder",
    "all_final_layer.2-1.linear": "final_layer.linear",
    "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
    "cap_embedder.1": "cap_embedder.1",
    "t_embedder.mlp.0": "t_embedder.mlp.0",
    "t_embedder.mlp.2": "t_embedder.mlp.2",
}

#: the transformer pads texts to a multiple of this many tokens
BLOCK = 32


class ZImage(Family):
    """The transformer takes 1 - sigma as its time and gives -dz/dsigma; captions are a list, each of its own length."""

    name = "z_image"
    other_words = ("zimageturbo", "zimagebase", "zit")
    title = "Z-Image"
    sign_title = "Z-Image"
    sign = r"noise_refiner|context_refiner|(^|[._])layers[._]\d+[._](attention|feed_forward|adaLN)"
    architecture = "z-image"
    pipeline_class = "ZImagePipeline"
    transformer_class = "ZImageTransformer2DModel"
    default_components = "Tongyi-MAI/Z-Image"
    comfyui_file = "models/diffusion_models/z_image_bf16.safetensors"
    part_files = (
        PartFile(
            "text_encoder", "Qwen3 4B text encoder", ("text_encoder", "qwen3"),
            ("models/text_encoders/qwen_3_4b.safetensors",), ("text_encoders.qwen3_4b.transformer.",),
        ),
        vae_file("models/vae/ae.safetensors"),
    )  # fmt: skip
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3")
    default_format = "comfyui"
    file_names = {"kohya_names": "native", "comfyui_names": "diffusers"}  # noqa: RUF012
    blocks = {  # noqa: RUF012
        "layers": Blocks("layers", 30, MODULATED),
        "noise_refiner": Blocks("noise_refiner", 2, MODULATED),
        "context_refiner": Blocks("context_refiner", 2, REFINER),
    }
    outer = OUTER_NAMES
    outer_fate = {"kohya": "diffusers ignores some"}  # noqa: RUF012
    sizes = (Published("Z-Image", 3840, {"layers": 30, "noise_refiner": 2, "context_refiner": 2}),)
    checkpoint_marks = ("x_pad_token", "cap_pad_token")
    other_marks = ("siglip_pad_token",)  # of the variant that edits

    def encode_prompts(
        self, pipeline: Any, prompts: list[str], sources: Sequence[Sources] | None = None
    ) -> list[PromptTensors]:
        embeds, _ = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        return [{"embeds": e.detach().cpu().contiguous()} for e in embeds]

    def text_shapes(self, transformer_config: Mapping, tokens: int, sources: int) -> dict[str, tuple[int, ...]]:
        return {"embeds": (min(tokens, self.longest_text), transformer_config["cap_feat_dim"])}

    def text_length(self, pipeline: Any, prompt: str) -> int:
        chat = pipeline.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return len(pipeline.tokenizer(chat, verbose=False).input_ids)

    def text_room(self, pipeline: Any, transformer_config: Mapping, sources: int = 0) -> int:
        return min(self.longest_text, room_in_places([0], transformer_config["axes_lens"][0]))

    def velocity(
        self, transformer: torch.nn.Module, z_BCHW: torch.Tensor, sigma_B: torch.Tensor, condition: TextConditions
    ) -> torch.Tensor:
        dtype = transformer.x_pad_token.dtype  # transformer.dtype walks through all parameters
        images = list(z_BCHW.to(dtype).unsqueeze(2).unbind(0))  # each [C, 1, H, W]: one frame
        places = transformer.config.axes_lens[0]
        captions = [within_places([item["embeds"].to(dtype)], places)[0] for item in condition.items]
        time = (1000 - sigma_B * 1000) / 1000  # the pipeline's own arithmetic
        out = transformer(images, time, captions, return_dict=False)[0]
        return -torch.stack([o.float() for o in out]).squeeze(2)

    def scheduler_arguments(self, scheduler: Any, transformer_config: Mapping, steps: int, latent_hw: tuple) -> dict:
        tokens = (latent_hw[0] // 2) * (latent_hw[1] // 2)
        sigmas = torch.linspace(1.0, 1 / steps, steps).tolist()
        return {"sigmas": sigmas, "mu": flow_match_shift(scheduler.config, tokens, default_max_shift=1.15)}

    def size_limits(self, transformer_config: Mapping, vae_scale_factor: int) -> SizeLimits:
        patch = max(transformer_config["all_patch_size"])
        places = min(transformer_config["axes_lens"][1:])
        return SizeLimits(multiple=vae_scale_factor * patch, maximum=places * patch * vae_scale_factor)


def room_in_places(lengths: Sequence[int], places: int) -> int:
    """Return how many tokens of the longest of a sample's texts have a place in the transformer's table of `places`.

    The texts follow each other, each padded to whole BLOCKs, with a place or two between them for a picture.
    """
    others = sorted(lengths)[:-1]
    taken = sum(-(-length // BLOCK) * BLOCK for length in others) + 2 * len(lengths)
    return max(1, (places - taken) // BLOCK) * BLOCK


def within_places(texts: Sequence[torch.Tensor], places: int) -> list[torch.Tensor]:
    """Return a sample's encoded texts [tokens, features]; the longest is cut to what has a place (see above)."""
    lengths = [len(text) for text in texts]
    longest = lengths.index(max(lengths))
    room = room_in_places(lengths, places)
    return [text[:room] if number == longest else text for number, text in enumerate(texts)]
