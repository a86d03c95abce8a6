"""A preset of prompt files through all of `toolkit = "sd-scripts"`, tiny: `run_tiny.py MODEL_TYPE FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from danceopd_ext.config.hosted_preset import split_preset
from danceopd_ext.toolkits.sd_scripts.registry import ARCHITECTURES
from danceopd_ext.toolkits.sd_scripts.run import train
from tests.integration.sd_scripts.checkout import prepare
from tests.integration.sd_scripts.stand_ins import MODELS, STAND_INS, write_unused
from tests.integration.sd_scripts.train_tiny import CAPTIONS, write_teacher


def write_preset(model_type: str, folder: Path) -> Path:
    """Two sizes, the text cache on disk, and everything else as in a real preset."""
    given = STAND_INS[model_type](folder)
    write_unused(given, folder)
    write_teacher(ARCHITECTURES[model_type], MODELS[model_type](), folder / "style.safetensors")
    for route, captions in CAPTIONS.items():
        (folder / f"{route}.txt").write_text("\n".join(captions), encoding="utf-8")
    lines = ["[model]", f'model_type = "{model_type}"']
    lines += [f"{name} = {value if value.isdigit() else repr(value)}" for name, value in given.items()]
    lines += [
        "[training]", 'resolution = ["64,64", "96,64"]', "max_train_steps = 4", "gradient_accumulation_steps = 2",
        "train_batch_size = 2", 'optimizer_type = "AdamW"', 'mixed_precision = "no"', "gradient_checkpointing = true",
        "cache_text_encoder_outputs = true", "cache_text_encoder_outputs_to_disk = true", "network_dim = 4",
        "sdpa = true", f"output_dir = {str(folder)!r}", 'output_name = "fused"',
        "[danceopd]", 'toolkit = "sd-scripts"', "rollout_steps = 3", "[danceopd.teachers.base]",
        "[danceopd.teachers.style]", 'lora = "style.safetensors"', "[danceopd.prompts]", 'base = "base.txt"',
        'style = "style.txt"',
    ]  # fmt: skip
    path = folder / "preset.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def main() -> None:
    prepare()
    torch.manual_seed(0)
    model_type, folder = sys.argv[1], Path(sys.argv[2])
    print("saved:", train(split_preset(write_preset(model_type, folder))))


if __name__ == "__main__":
    main()
