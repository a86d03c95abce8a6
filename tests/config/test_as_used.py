"""The preset as it was used: what a run saves of it can be read again and asks for the same."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from danceopd_ext.config.as_used import hosted_preset, name_of, native_preset
from danceopd_ext.config.hosted_preset import split_preset
from danceopd_ext.config.load import load_preset
from danceopd_ext.foreign.toml import parse_toml

NATIVE = """
[model]
pretrained_model_name_or_path = "model"
[network]
network_dim = 8
[optimizer]
optimizer_args = ["betas=0.9,0.99"]
[saving]
output_dir = "out"
output_name = "fused"
[danceopd]
rollout_steps = 4
[danceopd.teachers."two words"]
[danceopd.teachers.style]
lora = ["a.safetensors", "owner/name"]
strength = [1.0, 0.5]
[danceopd.prompts]
"two words" = "base.txt"
style = ["base.txt", "style.txt"]
[danceopd.routes]
style = 2.0
"""
HOSTED = """
[training]
model_type = "sd3"
network_module = "networks.lora_sd3"
pretrained_model_name_or_path = "models/sd3.safetensors"
output_dir = "out"
output_name = "fused"
learning_rate = 1e-4
wandb_api_key = "0123456789abcdef"
huggingface_token = "hf_0123456789abcdef"
resume = "out/fused-state"
[danceopd]
toolkit = "sd-scripts"
[danceopd.teachers.style]
lora = "loras/style.safetensors"
[danceopd.prompts]
style = "style.txt"
"""


@pytest.fixture
def native(tmp_path, monkeypatch):
    """Load the preset in its folder, with flags of the command line."""
    for name in ("base.txt", "style.txt"):
        (tmp_path / name).write_text("a cat\n", encoding="utf-8")
    (tmp_path / "model").mkdir()
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "preset.toml").write_text(NATIVE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return load_preset("preset.toml", {"network_dim": "16", "resume": "out/fused-state", "overwrite": "true"})


def test_what_is_saved_asks_for_the_same(native, tmp_path, monkeypatch):
    """From any folder; the command line's values are in it, and what belongs to one start is not."""
    text = native_preset(native)
    assert "network_dim = 16" in text and f'output_dir = "{tmp_path / "out"}"' in text
    assert 'lora = ["' + str(tmp_path / "a.safetensors") + '", "owner/name"]' in text
    assert "resume" not in text and "overwrite" not in text
    saved = tmp_path / "elsewhere" / "again.toml"
    saved.parent.mkdir()
    saved.write_text(text, encoding="utf-8")
    monkeypatch.chdir(saved.parent)
    again = load_preset(saved)
    assert native_preset(again) == text
    assert (again.network, again.optimizer, again.training) == (native.network, native.optimizer, native.training)
    assert list(again.danceopd.teachers) == ["two words", "style"] and again.danceopd.routes == {"style": 2.0}


def test_metadata_holds_no_folder(native, tmp_path):
    text = native_preset(native, name_of)
    assert str(tmp_path) not in text and "/" not in text.replace("owner/name", "")
    tables = parse_toml(text, "metadata")
    assert tables["danceopd"]["teachers"]["style"]["lora"] == ["a.safetensors", "owner/name"]
    assert tables["danceopd"]["prompts"]["style"] == ["base.txt", "style.txt"]


def test_a_toolkits_preset_has_no_secrets_and_the_command_lines_values(tmp_path, monkeypatch):
    (tmp_path / "style.txt").write_text("a cat\n", encoding="utf-8")
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "style.safetensors").touch()
    (tmp_path / "preset.toml").write_text(HOSTED, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    preset = split_preset(Path("preset.toml"), {"learning_rate": ["2e-4"]})
    text = hosted_preset(preset, Namespace(learning_rate=2e-4, output_dir="out"))
    tables = parse_toml(text, "saved")
    assert tables["training"]["learning_rate"] == 2e-4 and tables["training"]["model_type"] == "sd3"
    assert tables["training"]["pretrained_model_name_or_path"] == str(tmp_path / "models" / "sd3.safetensors")
    assert tables["training"]["network_module"] == "networks.lora_sd3"
    assert tables["danceopd"]["toolkit"] == "sd-scripts"
    assert "0123456789abcdef" not in text and "resume" not in tables["training"]
    names = hosted_preset(preset, Namespace(), name_of)
    assert str(tmp_path) not in names and "loras" not in parse_toml(names, "m")["danceopd"]["teachers"]["style"]["lora"]
