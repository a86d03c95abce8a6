"""Methods that train nothing: the file is the merge of the teachers."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors import safe_open

from danceopd_ext.lora.algebra import compress, extract, merge, relative_difference
from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Lora
from danceopd_ext.models.loading import load_transformer
from danceopd_ext.models.model_files import find_model_files
from tests.tiny.loras import layout_of
from tests.tiny.presets import write_preset
from tests.toolkits.native.fields import build
from tests.toolkits.runs import says


def merged(model, strong, how, more=()):
    loras = [read_lora(teacher["lora"], layout_of(model)) for teacher in strong.values()]
    return merge([*loras, *more], how)


@pytest.mark.parametrize(("method", "how"), [("merge_average", "average"), ("merge_sum", "sum")])
def test_a_merge_is_the_merge_of_the_teachers(ran, strong, pipelines, method, how):
    """Without data and without training."""
    output = ran(strong, family="sd3", method=method, prompts={}, network_dim=4)
    assert sorted(path.name for path in output.iterdir()) == ["fused.preset.toml", "fused.safetensors"]
    found = read_lora(output / "fused.safetensors", layout_of(pipelines["sd3"]))
    assert relative_difference(found, merged(pipelines["sd3"], strong, how)) < 1e-6
    with safe_open(output / "fused.safetensors", "pt") as file:
        entries = file.metadata()
    assert entries["ss_danceopd_method"] == method
    assert json.loads(entries["ss_danceopd_teachers"]) == {"one": "one", "two": "two"}
    assert (entries["ss_danceopd_forwards"], entries["ss_danceopd_merge_loss"]) == ("0", "0.0")
    assert "ss_danceopd_query" not in entries
    assert "one" in entries["modelspec.merged_from"]


def test_the_base_counts_in_an_average(ran, strong, pipelines):
    output = ran({**strong, "base": {}}, family="sd3", method="merge_average", prompts={}, network_dim=4)
    found = read_lora(output / "fused.safetensors", layout_of(pipelines["sd3"]))
    assert relative_difference(found, merged(pipelines["sd3"], strong, "average", [Lora({})])) < 1e-6
    assert relative_difference(found, merged(pipelines["sd3"], strong, "average")) == pytest.approx(1 / 3, rel=1e-3)


@pytest.mark.parametrize("method", ["merge_average", "merge_sum"])
@pytest.mark.parametrize("rank", [4, 2])
def test_a_student_starts_as_the_merge_that_the_method_writes(ran, strong, pipelines, tmp_path, method, rank):
    """With the base among the teachers, which counts in an average of both."""
    teachers = {**strong, "base": {}}
    output = ran(teachers, family="sd3", method=method, prompts={}, network_dim=rank)
    written = read_lora(output / "fused.safetensors", layout_of(pipelines["sd3"]))
    run = build(write_preset(tmp_path / "start", pipelines["sd3"], teachers, student_init=method, network_dim=rank))
    assert relative_difference(run.start, written) < 1e-6


def test_a_merge_that_is_too_large_is_compressed_and_the_loss_told(ran, strong, pipelines, capsys):
    output = ran(strong, family="sd3", method="merge_sum", prompts={}, network_dim=3)
    whole = merged(pipelines["sd3"], strong, "sum")
    found = read_lora(output / "fused.safetensors", layout_of(pipelines["sd3"]))
    assert max(change.rank for change in found.modules.values()) == 3
    assert relative_difference(found, compress(whole, 3)) < 1e-5
    lost = relative_difference(compress(whole, 3), whole)
    assert 0.05 < lost < 0.5
    assert f"network_dim = 3 loses {lost:.1%} of the merge" in capsys.readouterr().out
    with safe_open(output / "fused.safetensors", "pt") as file:
        assert float(file.metadata()["ss_danceopd_merge_loss"]) == pytest.approx(lost, abs=1e-5)


def test_a_checkpoint_is_merged_as_the_lora_extracted_from_it(ran, strong, pipelines, tmp_path):
    source = find_model_files(str(pipelines["sd3"]))
    tuned = load_transformer(source, torch.float32)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    checkpoint = tmp_path / "tuned"
    shutil.copytree(pipelines["sd3"], checkpoint)
    tuned.save_pretrained(checkpoint / "transformer")
    teachers = {"one": strong["one"], "tuned": {"checkpoint": str(checkpoint), "extract_rank": 3}}
    output = ran(teachers, family="sd3", method="merge_sum", prompts={}, network_dim=8)
    layout = layout_of(pipelines["sd3"])
    base = load_transformer(source, torch.float32).state_dict()
    extracted, _ = extract(base, tuned.state_dict(), list(layout.shapes), 3)
    expected = merge([read_lora(strong["one"]["lora"], layout), extracted], "sum")
    assert relative_difference(read_lora(output / "fused.safetensors", layout), expected) < 1e-5


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"student_init": "merge_sum"}, ["student_init", "does not train a student"]),
        ({"network_weights": "a.safetensors"}, ["network_weights", "does not train"]),
        ({"resume": "a-state"}, ["resume", "does not train"]),
    ],
)
def test_a_merge_with_keys_of_training(changed, refused, strong, keys, parts):
    says(refused(changed(strong, method="merge_average", **keys)), *parts)


@pytest.mark.parametrize(
    ("teacher", "parts"),
    [
        ({}, ["no teacher is a LoRA"]),
        ({"guidance_scale": 3.0}, ["[danceopd.teachers.one] guidance_scale", "not part of the weights"]),
        ({"checkpoint": "owner/model"}, ["[danceopd.teachers.one] checkpoint", "extract_rank"]),
        ({"lora": "nowhere.safetensors"}, ["[danceopd.teachers.one]", "nowhere.safetensors"]),
    ],
)
def test_teachers_that_cannot_be_merged(changed, refused, teacher, parts):
    says(refused(changed({"one": teacher}, method="merge_average")), *parts)
