"""Tiny random pipelines of the families that edit: FLUX.1, FLUX.2, Qwen-Image and Z-Image-Omni."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    BatchFeature,
    CLIPTextConfig,
    CLIPTextModel,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    T5Config,
    T5EncoderModel,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from tests.tiny.pipelines import PIPELINES, WORDS, randomise, tokenizer, vae

#: two heads of 16 features
HEADS = {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2}
SCHEDULER = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0}


def made(model: type, seed: int, **sizes: object) -> torch.nn.Module:
    """A model of these sizes with every parameter random."""
    torch.manual_seed(seed)
    built = model(**sizes)
    randomise(built, seed, scale=0.1)
    return built.eval()


def flux_transformer(seed: int = 0) -> torch.nn.Module:
    return made(
        diffusers.FluxTransformer2DModel, seed, in_channels=16, num_single_layers=2, joint_attention_dim=32,
        pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(4, 6, 6), **HEADS,
    )  # fmt: skip


def flux_pipeline(seed: int = 0, cls: type = diffusers.FluxPipeline) -> diffusers.DiffusionPipeline:
    torch.manual_seed(seed)
    clip = CLIPTextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        projection_dim=16, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    return cls(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=vae(4, seed),
        text_encoder=CLIPTextModel(clip).eval(),
        tokenizer=tokenizer(),
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=64, d_model=32, d_ff=32, d_kv=8, num_layers=1, num_heads=2)
        ).eval(),
        tokenizer_2=tokenizer(512),
        transformer=flux_transformer(seed),
    )


def kontext_pipeline(seed: int = 0) -> diffusers.DiffusionPipeline:
    return flux_pipeline(seed, diffusers.FluxKontextPipeline)


def flux_2_vae(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    made_vae = diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4, sample_size=32,
    ).eval()  # fmt: skip
    made_vae.bn.running_mean.uniform_(-0.5, 0.5)
    made_vae.bn.running_var.uniform_(0.5, 2.0)
    return made_vae


def flux_2_transformer(seed: int, text: int, guidance: bool) -> torch.nn.Module:
    return made(
        diffusers.Flux2Transformer2DModel, seed, in_channels=16, num_single_layers=2, joint_attention_dim=text,
        timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance, **HEADS,
    )  # fmt: skip


TEXT = {
    "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def flux_2_pipeline(seed: int = 0) -> diffusers.DiffusionPipeline:
    torch.manual_seed(seed)
    text = {"model_type": "mistral", "vocab_size": 64, "num_hidden_layers": 31, **TEXT}
    vision = {"model_type": "pixtral", "head_dim": 8, "image_size": 32, "patch_size": 8, **VISION}
    words = tokenizer(512)
    words.chat_template = (
        "{% for m in messages %}{{ m['role'] }} "
        "{% for part in m['content'] %}{{ part['text'] }} {% endfor %}{% endfor %}"
    )
    return diffusers.Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=flux_2_vae(seed),
        text_encoder=Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision)).eval(),
        tokenizer=words,
        transformer=flux_2_transformer(seed, 48, guidance=True),
    )


def klein_pipeline(seed: int = 0) -> diffusers.DiffusionPipeline:
    torch.manual_seed(seed)
    return diffusers.Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=flux_2_vae(seed),
        text_encoder=Qwen3ForCausalLM(Qwen3Config(vocab_size=64, num_hidden_layers=28, **TEXT)).eval(),
        tokenizer=tokenizer(512),
        transformer=flux_2_transformer(seed, 48, guidance=False),
    )


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


def omni_pipeline(seed: int = 0) -> diffusers.DiffusionPipeline:
    torch.manual_seed(seed)
    text = Qwen3Config(vocab_size=64, num_hidden_layers=2, **TEXT)
    vision = Siglip2VisionConfig(num_patches=16, patch_size=8, **VISION)
    return diffusers.ZImageOmniPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=False),
        vae=vae(4, seed),
        text_encoder=Qwen3Model(text).eval(),
        tokenizer=tokenizer(512),
        transformer=made(
            diffusers.ZImageTransformer2DModel, seed, in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2,
            n_kv_heads=2, cap_feat_dim=16, siglip_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[512, 64, 64],
        ),
        siglip=Siglip2VisionModel(vision).eval(),
        siglip_processor=Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16),
    )  # fmt: skip


PACKED = {
    "flux": flux_pipeline,
    "flux_kontext": kontext_pipeline,
    "flux_2": flux_2_pipeline,
    "flux_2_klein": klein_pipeline,
    "qwen_image": qwen_pipeline,
    "qwen_image_edit": qwen_edit_pipeline,
    "qwen_image_edit_plus": qwen_edit_plus_pipeline,
    "z_image_omni": omni_pipeline,
}

#: every family's
ALL = {**PIPELINES, **PACKED}


def save_any(family: str, folder: Path, seed: int = 0) -> Path:
    """A hub-layout folder of a tiny random pipeline; what stands in for Qwen's processor is not saved.

    `hand_processors_over` makes such a folder whole.
    """
    pipeline = ALL[family](seed)
    if hasattr(pipeline, "processor"):
        pipeline.register_modules(processor=None)
    pipeline.save_pretrained(folder)
    return folder


def hand_processors_over(monkeypatch) -> None:
    """Every pipeline that is loaded gets what stands in for Qwen's processor, where it has one."""
    for cls in (diffusers.QwenImageEditPipeline, diffusers.QwenImageEditPlusPipeline):
        load = partial(cls.from_pretrained, processor=QwenProcessor(qwen_tokenizer()))
        monkeypatch.setattr(cls, "from_pretrained", load)
