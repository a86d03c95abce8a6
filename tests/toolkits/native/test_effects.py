"""A teacher that changes nothing and weights that are cut are reported before the run starts."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from danceopd_ext.lora.algebra import compress, merge, relative_difference
from danceopd_ext.lora.read import read_lora
from danceopd_ext.models.loading import load_transformer
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.toolkits.native import no_effect
from danceopd_ext.toolkits.native.prepare import prepare
from danceopd_ext.toolkits.native.train import make_accelerator
from tests.tiny.loras import layout_of, write_random_lora
from tests.tiny.presets import write_preset
from tests.toolkits.native.fields import build
from tests.toolkits.runs import says


@pytest.fixture
def notes(pipelines, tmp_path):
    """The notes of a run that is prepared and not started, in one text."""
    from danceopd_ext.config.load import load_preset

    def notes(teachers, family="sd3", name="run", **keys):
        preset = load_preset(write_preset(tmp_path / name, pipelines[family], teachers, **keys))
        return "\n".join(prepare(preset, make_accelerator(preset)).notes)

    return notes


@pytest.fixture
def edited(loras, tmp_path):
    """Write a LoRA of the tiny SD3 with each tensor changed by `change(key, value)`."""

    def edited(name, change, place=0):
        tensors = {key: change(key, value) for key, value in load_file(loras["sd3", place]).items()}
        path = tmp_path / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
        return str(path)

    return edited


def test_a_lora_of_zeros(notes, edited, loras):
    """Zero in one factor is enough; the other teacher is not named."""
    zero = edited("zero", lambda key, value: value * ("lora_up" not in key))
    told = notes({"dead": {"lora": zero}, "live": {"lora": str(loras["sd3", 1])}})
    assert told.count("this teacher changes nothing") == 1
    says(told, "teacher dead: this teacher changes nothing")
    assert "nothing to learn" not in told


def test_a_lora_whose_factors_never_meet(notes, edited):
    """Each rank has only a column or only a row: both factors hold numbers, and their product is zero."""

    def apart(key, value):
        value = value.clone()
        if "lora_B" in key:
            value[:, 0] = 0
        elif "lora_A" in key:
            value[1] = 0
        return value

    says(notes({"dead": {"lora": edited("apart", apart, place=1)}}), "teacher dead: this teacher changes nothing")


def test_loras_that_change_something_are_not_named(notes, loras):
    assert "changes nothing" not in notes({"one": {"lora": str(loras["sd3", 0])}, "base": {}})


def test_one_file_of_a_list_is_zero(notes, edited, loras):
    zero = edited("zero", lambda key, value: value * 0)
    told = notes({"both": {"lora": [zero, str(loras["sd3", 1])]}})
    says(told, "teacher both: zero changes nothing")
    assert "this teacher changes nothing" not in told


def test_alpha_0_is_reported(notes, edited):
    """It stays at full strength, which other programs see otherwise."""
    told = notes({"one": {"lora": edited("odd", lambda key, value: value * (not key.endswith(".alpha")))}})
    says(told, "odd.safetensors: alpha is 0 in", "full strength", "ComfyUI")
    assert "changes nothing" not in told


def test_nothing_to_learn(notes, loras):
    says(notes({"base": {}}), "there is nothing to learn")
    assert "nothing to learn" not in notes({"base": {"guidance_scale": 3.0}}, name="guided")
    says(notes({"base": {"guidance_scale": 3.0}}, name="same", student_guidance_scale=3.0), "nothing to learn")
    teachers = {"base": {}, "one": {"lora": str(loras["sd3", 0])}}
    assert "nothing to learn" not in notes(teachers, name="drawn")
    says(notes(teachers, name="undrawn", routes={"one": 0.0, "base": 1.0}), "nothing to learn")


def test_the_same_teacher_twice(notes, loras):
    one = {"lora": str(loras["sd3", 0])}
    says(notes({"a": one, "b": dict(one)}), "teachers a and b are the same")
    assert "are the same" not in notes({"a": one, "b": {**one, "strength": 0.5}}, name="weaker")
    assert "are the same" not in notes({"a": one, "b": {**one, "guidance_scale": 2.0}}, name="guided")
    assert "are the same" not in notes({"a": {}, "b": {}}, name="bases")


@pytest.fixture
def copy(pipelines, tmp_path):
    """The base once more, in files of its own."""
    shutil.copytree(pipelines["sd3"], tmp_path / "copy")
    return tmp_path / "copy"


def test_a_checkpoint_with_the_bases_files(notes, copy):
    says(notes({"tuned": {"checkpoint": str(copy)}}), "teacher tuned: this teacher changes nothing")


@pytest.mark.parametrize("rank", [None, 2])
def test_a_checkpoint_with_the_bases_weights_in_other_files(pipelines, copy, tmp_path, rank):
    tuned = load_transformer(find_model_files(str(copy)), torch.float32)
    tuned.save_pretrained(copy / "transformer", max_shard_size="20KB")
    for file in (copy / "transformer").glob("diffusion_pytorch_model.safetensors"):
        file.unlink()
    teacher = {"checkpoint": str(copy)} | ({"extract_rank": rank} if rank else {})
    told = "\n".join(build(write_preset(tmp_path / "run", pipelines["sd3"], {"tuned": teacher})).told)
    says(told, "teacher tuned: this teacher changes nothing", "copy has the base's weights")


def test_a_checkpoint_that_differs_in_one_weight_is_not_named(pipelines, copy, tmp_path):
    tuned = load_transformer(find_model_files(str(copy)), torch.float32)
    with torch.no_grad():
        tuned.proj_out.bias[0] += 1
    tuned.save_pretrained(copy / "transformer")
    preset = write_preset(tmp_path / "run", pipelines["sd3"], {"tuned": {"checkpoint": str(copy)}})
    assert not any("changes nothing" in line for line in build(preset).told)


def test_joint_does_not_ask_its_teachers(notes, pictures, loras):
    teachers = {"one": {"lora": str(loras["sd3", 0])}, "two": {}}
    told = notes(teachers, method="joint", prompts=pictures)
    says(told, 'teacher one: method = "joint"', "not used")
    assert "teacher two" not in told


# --- weights that are cut


def test_network_weights_of_a_higher_rank(pipelines, notes, loras, tmp_path):
    large = write_random_lora(tmp_path / "large.safetensors", pipelines["sd3"], 3, "diffusers", rank=4)
    told = notes({"base": {}}, network_weights=str(large), network_dim=2)
    whole = read_lora(large, layout_of(pipelines["sd3"]))
    lost = relative_difference(compress(whole, 2), whole)
    assert 0.3 < lost < 0.9
    says(told, "rank 4 is cut to network_dim = 2", f"loses {lost:.1%}", "Set network_dim = 4")
    assert "nothing to learn" not in told, "a student that starts as a LoRA has that to unlearn"
    assert "loses" not in notes({"base": {}}, name="fits", network_weights=str(large), network_dim=4)


def test_network_weights_of_zeros(notes, edited):
    zero = edited("zero", lambda key, value: value * 0)
    says(notes({"base": {}}, network_weights=zero), "network_weights changes nothing")


def test_parts_of_network_weights_that_a_student_cannot_have(notes, loras, tmp_path):
    """They are left out, and a note says so: there is no key that could allow it."""
    more = {"lora_te1_layer.lora_up.weight": torch.ones(2, 1), "transformer.norm_out.linear.diff_b": torch.ones(4)}
    save_file(load_file(loras["sd3", 0]) | more, tmp_path / "more.safetensors")
    told = notes({"base": {}}, network_weights=str(tmp_path / "more.safetensors"))
    says(told, "network_weights: more.safetensors: its changes of text encoders are ignored", "a bias", "ignored")


def test_a_start_of_full_rank_is_not_told_to_train_that(pipelines, notes, tmp_path, monkeypatch):
    monkeypatch.setattr(no_effect, "LARGE_RANK", 2)
    layer = "transformer_blocks.0.attn.to_q"
    outputs, inputs = layout_of(pipelines["sd3"]).shapes[layer]
    factors = {"lokr_w1": torch.eye(2), "lokr_w2": torch.randn(outputs // 2, inputs // 2)}
    save_file({f"transformer.{layer}.{part}": value for part, value in factors.items()}, tmp_path / "kr.safetensors")
    told = notes({"base": {}}, network_weights=str(tmp_path / "kr.safetensors"), network_dim=1)
    says(told, f"rank {min(outputs, inputs)} is cut to network_dim = 1", "loses", "A larger network_dim keeps more")
    assert "Set network_dim" not in told


def test_a_start_from_a_merge_that_is_cut(pipelines, strong, tmp_path):
    keys = {"student_init": "merge_sum", "network_dim": 2}
    run = build(write_preset(tmp_path / "run", pipelines["sd3"], strong, **keys))
    layout = layout_of(pipelines["sd3"])
    whole = merge([read_lora(teacher["lora"], layout) for teacher in strong.values()], "sum")
    lost = relative_difference(compress(whole, 2), whole)
    says("\n".join(run.told), f"network_dim = 2 loses {lost:.1%} of the merge that the student starts from")


def test_the_start_that_is_cut_can_be_resumed(launch, pipelines, loras, tmp_path):
    """What the state remembers of network_weights is the file, not what is left of it."""
    keys = {"network_weights": str(loras["sd3", 0]), "network_dim": 1, "max_train_steps": 3, "rollout_steps": 2}
    preset = write_preset(
        tmp_path / "run", pipelines["sd3"], {"base": {"guidance_scale": 2.0}}, save_every_n_steps=2, save_state=True,
        **keys,
    )  # fmt: skip
    output = launch(preset)
    launch(preset, "--resume", output / "fused-step00000002-state")
