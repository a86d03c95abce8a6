"""A state is continued by the run that it is of: what was changed since, in the preset or in a file, is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.tiny.presets import write_preset
from tests.toolkits.runs import BASE, log_of, says

CHECKPOINT = "tuned"
ADDED = (
    "rollout_solver",
    "max_grad_norm",
    "network_dropout",
    "mixed_precision",
    "student_init",
    "network_weights",
    "model_content",
    "components_content",
    "optimizer_args",
    "student_guidance_scale",
    "checkpoint_content",
)


def retrain(folder: Path) -> None:
    """Other numbers in files of the same names and sizes."""
    for file in folder.glob("*.safetensors"):
        save_file({name: tensor + 0.5 for name, tensor in load_file(file).items()}, file, {"format": "pt"})


@pytest.fixture
def models(pipelines, tmp_path):
    """Folders of a base and a checkpoint of its own, to write in."""
    for name in ("model", CHECKPOINT):
        shutil.copytree(pipelines["sd3"], tmp_path / name)
    retrain(tmp_path / CHECKPOINT / "transformer")
    return tmp_path


@pytest.fixture
def preset(models):
    """Write the preset of a run of the models, with one keyword changed."""

    def preset(steps=2, **keys):
        teachers = {**BASE, "real": {"checkpoint": str(models / CHECKPOINT)}}
        keys = {"rollout_steps": 2, "save_state": True, "optimizer_args": ["betas=0.9,0.99"], **keys}
        teachers = keys.pop("teachers", teachers)
        return write_preset(models / "run", models / "model", teachers, max_train_steps=steps, **keys)

    return preset


@pytest.fixture
def state(preset, launch):
    """The state after one step."""
    return launch(preset(1)) / "fused-state"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"student_guidance_scale": 2.0}, "student_guidance_scale was 1.0 and is 2.0"),
        ({"optimizer_args": ["betas=0.9,0.9"]}, 'optimizer_args.betas was "(0.9, 0.99)" and is "(0.9, 0.9)"'),
        ({"optimizer_args": ["betas=0.9,0.99", "weight_decay=0.1"]}, 'weight_decay was null and is "0.1"'),
        ({"optimizer_args": []}, "and is null"),
        ({"rollout_solver": "ab2"}, 'rollout_solver was "euler" and is "ab2"'),
        ({"max_grad_norm": 0.5}, "max_grad_norm was 1.0 and is 0.5"),
        ({"network_dropout": 0.5}, "network_dropout was 0.0 and is 0.5"),
        ({"mixed_precision": "bf16"}, 'mixed_precision was "no" and is "bf16"'),
    ],
)
def test_a_changed_setting(state, preset, refused, keys, told):
    says(refused(preset(resume=str(state), **keys)), "fused-state (resume)", told, "network_weights")


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (f"{CHECKPOINT}/transformer", "the checkpoint of teacher real had other weights under this name"),
        ("model/transformer", "pretrained_model_name_or_path had other weights under this name"),
        ("model/text_encoder", "text encoders, scheduler or VAE were different"),
    ],
)
def test_a_model_that_was_trained_again_under_its_name(state, preset, models, refused, part, told):
    retrain(models / part)
    says(refused(preset(resume=str(state))), "fused-state (resume)", told, "network_weights")


def test_what_changes_nothing_is_no_change(state, preset, models, launch):
    """Folders that moved, a VAE that only previews use, arguments in other words."""
    elsewhere = models / "elsewhere"
    elsewhere.mkdir()
    shutil.move(models / "model", elsewhere / "model")
    retrain(elsewhere / "model" / "vae")
    file = preset(resume=str(state), optimizer_args=["betas = (0.9, 0.99)"])
    output = launch(file, "--pretrained_model_name_or_path", elsewhere / "model")
    assert [entry["step"] for entry in log_of(output)] == [1, 2]


def test_a_state_of_an_earlier_version_is_continued_and_what_it_lacks_is_told(state, preset, launch, capsys):
    facts = json.loads((state / "state.json").read_text(encoding="utf-8"))
    for key in ADDED:
        del facts["identity"][key]
    (state / "state.json").write_text(json.dumps(facts), encoding="utf-8")
    output = launch(preset(resume=str(state)))
    assert [entry["step"] for entry in log_of(output)] == [1, 2]
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: resume")]
    assert len(notes) == 1
    says(notes[0], "earlier version", *ADDED)


def test_another_strength_is_told_in_words(preset, launch, refused, two_teachers):
    lora = two_teachers["sd3"]["one"]["lora"]
    teachers = {"style": {"lora": lora}}
    state = launch(preset(1, teachers=teachers)) / "fused-state"
    changed = preset(resume=str(state), teachers={"style": {"lora": lora, "strength": 0.5}})
    says(refused(changed), "the LoRA of teacher style, or its strength, was different")
