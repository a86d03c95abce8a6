"""The LoRA files and states that a run writes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from danceopd_ext.lora.read import read_lora
from tests.tiny.loras import layout_of
from tests.toolkits.runs import log_of


def steps_of(output, ending):
    return sorted(int(path.name[10:18]) for path in output.glob(f"fused-step*{ending}"))


# --- LoRA files and states


def test_all_saves_are_kept_by_default(ran):
    output = ran(max_train_steps=7, save_every_n_steps=2, save_state=True)
    assert steps_of(output, ".safetensors") == [2, 4, 6]
    assert steps_of(output, "-state") == [2, 4, 6]
    assert (output / "fused.safetensors").is_file() and (output / "fused-state").is_dir()


def test_saves_of_the_last_steps_are_kept(ran):
    """As sd-scripts counts: at step 10, those of the last 4 steps are 6, 8 and 10."""
    output = ran(
        max_train_steps=11, save_every_n_steps=2, save_last_n_steps=4, save_last_n_steps_state=2, save_state=True
    )
    assert steps_of(output, ".safetensors") == [6, 8, 10]
    assert steps_of(output, "-state") == [8, 10]


def test_states_follow_the_loras(ran):
    output = ran(max_train_steps=7, save_every_n_steps=1, save_last_n_steps=2, save_state=True)
    assert steps_of(output, "-state") == steps_of(output, ".safetensors") == [4, 5, 6]


def test_files_of_others_are_left_alone(ran, tmp_path):
    output = tmp_path / "run" / "output"
    output.mkdir(parents=True)
    others = [output / "other-step00000001.safetensors", output / "fused-step00000001.png"]
    for other in others:
        other.write_text("", encoding="utf-8")
    ran(max_train_steps=5, save_every_n_steps=1, save_last_n_steps=1)
    assert all(other.is_file() for other in others)


def test_no_state_unless_asked(ran):
    assert not [*ran(save_every_n_steps=1).glob("*-state")]
    assert [p.name for p in ran(save_state_on_train_end=True, name="end").glob("*-state")] == ["fused-state"]


FORMATS = {
    ("sd3", "kohya"): "lora_unet_joint_blocks_0_",
    ("sd3", "diffusers"): "transformer.transformer_blocks.0.",
    ("sd3", "comfyui"): "diffusion_model.joint_blocks.0.",
    ("sd3", "auto"): "transformer.transformer_blocks.0.",
    ("z_image", "kohya"): "lora_unet_layers_0_",
    ("z_image", "diffusers"): "transformer.layers.0.",
    ("z_image", "comfyui"): "diffusion_model.layers.0.",
    ("z_image", "safetensors"): "diffusion_model.layers.0.",
}


@pytest.mark.parametrize(("family", "format"), FORMATS)
def test_formats(ran, pipelines, family, format):
    """Each has its own names, and each is the same LoRA."""
    output = ran(family=family, save_model_as=format, save_state_on_train_end=True)
    assert any(key.startswith(FORMATS[family, format]) for key in load_file(output / "fused.safetensors"))
    student = load_file(output / "fused-state" / "student.safetensors")
    found = read_lora(output / "fused.safetensors", layout_of(pipelines[family]))
    for layer, change in found.modules.items():
        expected = student[f"{layer}.up"] @ student[f"{layer}.down"]
        assert torch.allclose(change.delta(), expected, atol=1e-6), layer
    assert len(found.modules) == len(student) // 2


@pytest.mark.parametrize(
    ("word", "dtype"), [("float", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_save_precision(ran, word, dtype):
    assert {t.dtype for t in load_file(ran(save_precision=word) / "fused.safetensors").values()} == {dtype}


def test_alpha_is_folded_in(ran, pipelines):
    """A student trained with alpha 1 at rank 4 is saved at a quarter, so that strength 1 means what was trained."""
    output = ran(network_alpha=1.0, save_state_on_train_end=True)
    student = load_file(output / "fused-state" / "student.safetensors")
    for layer, change in read_lora(output / "fused.safetensors", layout_of(pipelines["z_image"])).modules.items():
        assert torch.allclose(change.delta(), student[f"{layer}.up"] @ student[f"{layer}.down"] / 4, atol=1e-6)


def test_metadata(ran, loras, tmp_path):
    teachers = {"style": {"lora": str(loras["z_image", 0]), "strength": 0.5}, "base": {"guidance_scale": 3.0}}
    output = ran(
        teachers, network_alpha=2.0, metadata_author="me", metadata_title="A title", metadata_trigger_phrase="xyz",
        metadata_license="CC0", metadata_tags="a,b", metadata_description="what", training_comment="why",
    )  # fmt: skip
    with safe_open(output / "fused.safetensors", "pt") as file:
        entries = file.metadata()
    expected = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "4.0",
        "ss_output_name": "A title",
        "ss_steps": "2",
        "ss_seed": "7",
        "ss_optimizer": "AdamW",
        "ss_training_comment": "why",
        "ss_danceopd_method": "danceopd",
        "ss_danceopd_query": "low_noise",
        "ss_resolution": "(16, 16)",
        "modelspec.architecture": "z-image/lora",
        "modelspec.title": "A title",
        "modelspec.author": "me",
        "modelspec.license": "CC0",
        "modelspec.tags": "a,b",
        "modelspec.description": "what",
        "modelspec.trigger_phrase": "xyz",
        "modelspec.resolution": "16x16",
    }
    assert {key: entries.get(key) for key in expected} == expected
    assert json.loads(entries["ss_danceopd_teachers"]) == {"style": "z_image_0 x0.5", "base": "guidance 3"}
    assert "style (z_image_0 x0.5)" in entries["modelspec.merged_from"]
    for key, value in entries.items():
        assert str(tmp_path) not in value and "/tmp" not in value, key
        assert "/" not in value or key == "modelspec.architecture", f"{key} holds a path: {value}"


def test_a_route_that_is_never_drawn_needs_no_data(ran, two_teachers, tmp_path):
    prompts = tmp_path / "two.txt"
    prompts.write_text("a cat\n", encoding="utf-8")
    output = ran(prompts={"two": str(prompts)}, routes={"one": 0.0})
    assert {entry["route"] for entry in log_of(output)} == {"two"}
