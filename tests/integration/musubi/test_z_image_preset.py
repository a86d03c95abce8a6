"""The shipped preset for Z-Image, with its blanks filled in, on a tiny model; its commented keys are musubi's too."""

from __future__ import annotations

import re
from pathlib import Path

from danceopd_ext.config.hosted_preset import split_preset
from danceopd_ext.toolkits.hosted.architecture import find_architecture
from danceopd_ext.toolkits.hosted.argument_rules import refuse
from danceopd_ext.toolkits.hosted.arguments import build_arguments
from danceopd_ext.toolkits.hosted.checkout import find_toolkit
from danceopd_ext.toolkits.musubi.argument_rules import RULES
from danceopd_ext.toolkits.musubi.run import OURS, import_trainer, parser_of
from tests.integration.musubi.runs import here

PRESET = Path(__file__).resolve().parents[3] / "presets" / "musubi_z_image_fuse_loras.toml"


def test_it_trains_with_its_blanks_filled_in(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PRESET.read_text(encoding="utf-8")
    files = {"models/z_image_bf16": world.dit, "models/qwen_3_4b": world.text_encoder}
    files |= {"loras/style": world.style, "loras/character": world.sketch}
    for name, file in files.items():
        text = text.replace(f"{name}.safetensors", str(file))
    text = re.sub(r'"prompts/(general|style|character).txt"', f'"{world.prompts}"', text)
    changes = {
        "resolution = 1024": "resolution = 64",
        '"adamw8bit"': '"AdamW"',
        "max_train_steps = 3000": "max_train_steps = 3",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    text = re.sub(r"fp8_(base|scaled) = true", r"fp8_\1 = false", text)  # needs a GPU
    Path("preset.toml").write_text(text, encoding="utf-8")
    trainer = here(Path("preset.toml"))
    assert trainer.saved == Path("output/z_image_fused.safetensors")
    assert trainer.saved.is_file()
    assert len(trainer.seen) == 4 + 4 + 1  # accelerate ends a step where an epoch ends: nine prompts here
    assert {name for seen in trainer.seen for name in seen["metrics"] if "loss/" in name} == {
        "loss/base", "loss/style", "loss/character",
    }  # fmt: skip


def test_musubis_parser_knows_also_what_is_commented_out(tmp_path):
    """Everything from [model] on that looks like a key, read as one."""
    _, _, body = PRESET.read_text(encoding="utf-8").partition("\n[model]")
    shown = re.sub(r"^# (?=\w+ = |\[)", "", body, flags=re.MULTILINE)
    assert shown.count("=") == body.count("=")
    assert len(re.findall(r"^# ", shown, flags=re.MULTILINE)) == 0
    path = tmp_path / "preset.toml"
    path.write_text("[model]" + shown, encoding="utf-8")
    preset = split_preset(path)
    architecture = find_architecture(preset)
    module = import_trainer(find_toolkit("musubi-tuner", None), architecture)
    arguments = build_arguments(parser_of(module, architecture), preset, OURS)
    refuse(arguments, RULES)
    args = arguments.namespace
    assert (args.fp8_base, args.fp8_scaled, args.blocks_to_swap, args.compile) == (True, True, 16, True)
    assert args.discrete_flow_shift == 3.0
    assert preset.danceopd.datasets == {"style": 1, "character": "data/character"}
