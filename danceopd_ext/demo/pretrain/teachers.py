"""Writes teachers, which are LoRAs on the base, and puts them on the pipeline."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from diffusers import ZImageOmniPipeline
from peft.utils import get_peft_model_state_dict

RANK = 16


def save_lora(pipeline: ZImageOmniPipeline, adapter: str, file: Path) -> None:
    """Writes one adapter of the transformer in the format that `load_lora_weights` reads."""
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = get_peft_model_state_dict(pipeline.transformer, adapter_name=adapter)
    pipeline.save_lora_weights(file.parent, transformer_lora_layers=weights, weight_name=file.name)


def use_loras(pipeline: ZImageOmniPipeline, files: Mapping[str, Path], weights: Mapping[str, float]) -> None:
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
