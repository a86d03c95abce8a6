"""Presets for the toolkits, as far as they can be checked without them."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file

from danceopd_ext.config.hosted_preset import split_preset
from danceopd_ext.config.load import flat_keys, load_preset
from danceopd_ext.toolkits.run import parse_command
from fuzzing.presets import FILES, odd_flags, odd_preset, write
from fuzzing.targets import Case, Stage, target
from fuzzing.toolkits import PARSER, check_hosted
from fuzzing.trees import as_toml, changed, few
from fuzzing.worlds import SIZE, World

#: the toolkits' models, as far as they are looked at: file -> names of tensors
MODELS = {
    "lumina.safetensors": ("cap_embedder.0.weight", "noise_refiner.0.attention.qkv.weight"),
    "gemma2.safetensors": ("layers.0.pre_feedforward_layernorm.weight",),
    "ae.safetensors": ("decoder.conv_in.weight", "encoder.conv_in.weight"),
}


def hosted_preset(rng: Random) -> dict[str, Any]:
    """A right preset for one of the toolkits."""
    musubi_too = rng.random() < 0.4
    teachers = {"base": {}, "style": {"lora": "style.safetensors", "guidance_scale": 2.0}}
    model = {
        "pretrained_model_name_or_path": "lumina.safetensors",
        "gemma2": "gemma2.safetensors",
        "ae": "ae.safetensors",
    }
    kinds = ("lumina",) * 8 + ("sd3", "flux", "anima", "chroma")
    if musubi_too:
        model = {"dit": "style.safetensors", "vae": "style.safetensors", "text_encoder": "style.safetensors"}
        kinds = ("z_image", "z_image", "flux_kontext")
    return {
        "model": {"model_type": rng.choice(kinds), **model},
        "network": {"network_dim": 4, "network_alpha": 4, "network_args": []},
        "optimizer": {"optimizer_type": "AdamW", "learning_rate": 1e-4, "optimizer_args": ["weight_decay=0.1"]},
        "training": {"max_train_steps": 4, "mixed_precision": "no", "resolution": "64,64", "seed": 1},
        "saving": {"output_dir": "out", "output_name": "fused"},
        "data": {"sample_prompts": "samples.txt"} if rng.random() < 0.5 else {"dataset_config": "dataset.toml"},
        "danceopd": {
            "toolkit": "musubi-tuner" if musubi_too else "sd-scripts", "rollout_steps": 4, "teachers": teachers,
            "prompts": {"base": "base.txt", "style": "style.txt"},
        },
    }  # fmt: skip


@target("hosted", share=20)
def hosted_case(rng: Random, world: World, folder: Path) -> Case:
    """A preset for a toolkit, as far as it can be checked without the toolkit."""
    keys = {action.dest: "training" for action in PARSER._actions}
    keys |= {name: section for name, section in flat_keys().items() if section == "danceopd"}
    document, told = odd_preset(hosted_preset(rng), keys, rng)
    words = odd_flags(list(keys), rng)
    if words:
        told = [*told, few(words)]
    subset, more = changed({"datasets": [{"resolution": SIZE, "subsets": [{"image_dir": "folder"}]}]}, rng)
    for name, tensors in MODELS.items():
        save_file({key: torch.zeros(2, 2) for key in tensors}, folder / name)
    told += write(folder, world, document, rng, MODELS)
    if rng.random() < 0.3:
        told += [f"dataset.toml: {'; '.join(more)}"]
        (folder / "dataset.toml").write_bytes(as_toml(subset).encode("utf-8", "surrogatepass"))
    else:
        (folder / "dataset.toml").write_text('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "folder"\n', "utf-8")

    def run(stage: Stage) -> None:
        stage("read")
        config, flags = parse_command(["--config", "preset.toml", *words])
        hosted = split_preset(config, flags)
        if hosted is None:
            load_preset(config, flags)
        else:
            check_hosted(hosted, stage)

    return Case(
        run,
        told,
        ["preset.toml", "dataset.toml", *FILES, *(word.partition("=")[0] for word in words if word.startswith("--"))],
    )
