"""Teachers' LoRA files that hold more than a LoRA, and students whose file other programs would not read whole."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.toolkits.runs import QUICK, says


@pytest.fixture
def with_more(loras, tmp_path):
    """Write the tiny SD3's teacher with further entries in its file."""

    def with_more(**more: torch.Tensor) -> str:
        named = {key.replace("__", "."): value for key, value in more.items()}
        save_file(load_file(loras["sd3", 1]) | named, tmp_path / "style.safetensors")
        return str(tmp_path / "style.safetensors")

    return with_more


BIAS = {"transformer__transformer_blocks__0__attn__to_q__diff_b": torch.ones(8)}


def test_a_teacher_that_changes_biases_needs_a_key(changed, refused, with_more):
    message = refused(changed({"style": {"lora": with_more(**BIAS)}}))
    says(message, "[danceopd.teachers.style]", "style.safetensors", "a bias", "ignore_other_parts = true")


def test_what_is_left_out_of_a_teacher_is_told(changed, launch, with_more, capsys):
    file = with_more(**BIAS, bundle_emb__mydog__clip_l=torch.ones(1, 4), scaled_fp8=torch.zeros(2))
    launch(changed({"style": {"lora": file, "ignore_other_parts": True}}, **QUICK))
    notes = [line for line in capsys.readouterr().out.splitlines() if "teacher style:" in line]
    assert len(notes) == 3 and all(line.startswith("note: ") for line in notes)
    says("\n".join(notes), "a bias", "mydog", "scaled_fp8")


@pytest.mark.parametrize(("word", "prefix"), [("kohya", "lora_unet_"), ("auto", "diffusion_model.")])
def test_layers_outside_of_blocks(changed, launch, capsys, word, prefix):
    """What diffusers does with Z-Image's in kohya's names is told before training."""
    preset = changed(family="z_image", lora_targets=["to_q", "cap_embedder.1"], save_model_as=word, **QUICK)
    tensors = load_file(launch(preset) / "fused.safetensors")
    assert all(key.startswith(prefix) for key in tensors)
    notes = [line for line in capsys.readouterr().out.splitlines() if "outside the blocks" in line]
    assert len(notes) == (word == "kohya")
    assert all("cap_embedder.1" in note and "diffusers ignores some" in note for note in notes)
