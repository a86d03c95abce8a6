"""Teachers are LoRAs on the base, each trained on one skill alone; and what comes of merging them."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import ZImagePipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from .flow import encode_skills, train_flow

LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3"]
RANK = 16


def train_teacher(pipeline: ZImagePipeline, skill: str, file: Path, seed: int, **training) -> None:
    """Trains one LoRA from the base on all scenes of `skill`, saves it to `file`, and removes it from the pipeline."""
    transformer = pipeline.transformer
    transformer.requires_grad_(False)
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LORA_TARGETS, init_lora_weights="gaussian")
    transformer.add_adapter(config, adapter_name=skill)
    train_flow(transformer, encode_skills(pipeline, [skill]), name=skill, seed=seed, **training)
    save_lora(pipeline, skill, file)
    transformer.delete_adapters(skill)


def save_lora(pipeline: ZImagePipeline, adapter: str, file: Path) -> None:
    """Writes one adapter of the transformer in the format that `load_lora_weights` reads."""
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = get_peft_model_state_dict(pipeline.transformer, adapter_name=adapter)
    pipeline.save_lora_weights(file.parent, transformer_lora_layers=weights, weight_name=file.name)


def use_loras(pipeline: ZImagePipeline, files: Mapping[str, Path], weights: Mapping[str, float]) -> None:
    """Puts the LoRAs of `weights` (name -> strength) on the pipeline, and no others.

    Adapters that are active together add up: strength 1 each is the exact sum of their deltas,
    strength 1/2 each the exact average.
    """
    pipeline.unload_lora_weights()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are meant
        for name in weights:
            pipeline.load_lora_weights(str(files[name].parent), weight_name=files[name].name, adapter_name=name)
    if weights:
        pipeline.set_adapters(list(weights), list(weights.values()))
