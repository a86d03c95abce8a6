"""Tiny random Qwen-Image, and its versions that edit, with a stand-in for their processor."""

from __future__ import annotations

from functools import partial

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import BatchFeature, PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.tiny.families.parts import HEADS, SCHEDULER, TEXT, WORDS, made

#: the tokens of Qwen's chats; the pipelines look for them, and drop the first so and so many of a prompt
MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Every word, space and sign is a token: as many as Qwen's own tokenizer makes, and more. Unknown words differ."""
    known = ["<pad>", "<unk>", *MARKS, *WORDS, "user", "assistant", " ", "\n", ".", ",", ":"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\s|[^\w\s]"), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", additional_special_tokens=MARKS,
        padding_side="right", model_max_length=2048,
    )  # fmt: skip


def qwen_text_encoder(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    place = {mark: 2 + i for i, mark in enumerate(MARKS)}
    text = {
        "vocab_size": 64, "num_hidden_layers": 2, "rope_parameters": {"type": "mrope", "mrope_section": [1, 1, 2],
        "rope_theta": 10000.0, "rope_type": "default"}, **{k: v for k, v in TEXT.items() if k != "head_dim"},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
        "patch_size": 4, "spatial_merge_size": 2, "window_size": 16, "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, vision_start_token_id=place["<|vision_start|>"],
        vision_end_token_id=place["<|vision_end|>"], image_token_id=place["<|image_pad|>"],
        video_token_id=place["<|video_pad|>"],
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config).eval()


class QwenProcessor:
    """Does what Qwen2VLProcessor does with pictures, which transformers has only together with torchvision."""

    def __init__(self, words: PreTrainedTokenizerFast):
        self.words = words
        self.pictures = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=64, max_pixels=32 * 32)

    def __call__(self, text: list[str], images: object, padding: bool, return_tensors: str) -> BatchFeature:
        seen = self.pictures(images=images if isinstance(images, list) else [images], return_tensors=return_tensors)
        patches = (seen["image_grid_thw"].prod(-1) // self.pictures.merge_size**2).tolist()
        whole = []
        for words in text:
            head, *rest = words.split("<|image_pad|>")
            parts = zip(patches, rest, strict=True)
            whole.append(head + "".join("<|image_pad|>" * count + part for count, part in parts))
        return BatchFeature({**self.words(whole, padding=padding, return_tensors=return_tensors), **seen})


def qwen_pipeline(seed: int = 0, cls: type = diffusers.QwenImagePipeline) -> diffusers.DiffusionPipeline:
    words = qwen_tokenizer()
    more = {} if cls is diffusers.QwenImagePipeline else {"processor": QwenProcessor(words)}
    torch.manual_seed(seed)
    qwen_vae = diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.8, 2.0, 1.1],
    ).eval()  # fmt: skip
    return cls(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER, shift_terminal=0.02, time_shift_type="exponential"),
        vae=qwen_vae,
        text_encoder=qwen_text_encoder(seed),
        tokenizer=words,
        transformer=made(
            diffusers.QwenImageTransformer2DModel, seed, in_channels=16, out_channels=4, joint_attention_dim=16,
            axes_dims_rope=(4, 6, 6), **HEADS,
        ),
        **more,
    )  # fmt: skip


def qwen_edit_pipeline(seed: int = 0) -> diffusers.DiffusionPipeline:
    return qwen_pipeline(seed, diffusers.QwenImageEditPipeline)


def qwen_edit_plus_pipeline(seed: int = 0) -> diffusers.DiffusionPipeline:
    return qwen_pipeline(seed, diffusers.QwenImageEditPlusPipeline)


def hand_processors_over(monkeypatch) -> None:
    """Every pipeline that is loaded gets what stands in for Qwen's processor, where it has one."""
    for cls in (diffusers.QwenImageEditPipeline, diffusers.QwenImageEditPlusPipeline):
        load = partial(cls.from_pretrained, processor=QwenProcessor(qwen_tokenizer()))
        monkeypatch.setattr(cls, "from_pretrained", load)
