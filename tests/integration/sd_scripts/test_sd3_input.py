"""What users get wrong, and what only looks wrong, on the real checkout."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from danceopd_ext.toolkits.sd_scripts.argument_rules import RULES
from tests.integration.sd_scripts.checkout import prepare
from tests.integration.sd_scripts.runs import refused, run, trained
from tests.integration.sd_scripts.test_sd3_runs import write_dataset, write_pictures
from tests.integration.sd_scripts.world import world  # noqa: F401 - a fixture


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"danceopd": {"toolkit_dir": "/"}}, "is not a checkout of kohya-ss/sd-scripts"),
        ({"training": {"max_train_step": 5}}, "unknown key max_train_step"),
        ({"training": {"gradient_checkpoint": True}}, 'Did you mean "gradient_checkpointing"?'),
        ({"training": {"train_batch_size": "2"}}, "takes a whole number"),
        ({"training": {"min_snr_gamma": 5.0}}, "plain mean squared error"),
        ({"model": {"model_type": "sdxl"}}, 'model_type = "sdxl" is not one of sd3'),
        ({"model": {"clip_l": "nowhere.safetensors"}}, 'clip_l = "nowhere.safetensors": there is no such file'),
        ({"dataset": {"resolution": "100,64"}}, "Stable Diffusion 3 / 3.5 does not support 100x64"),
        ({"danceopd": {"prompts": {}}}, "no data: name prompt files"),
        ({"danceopd": {"prompts": {"base": "nowhere.txt"}}}, "nowhere.txt"),
        ({"danceopd": {"routes": {"glow": 1.0}}}, "glow"),
        ({"danceopd": {"teachers": {"student": {}, "ink": {}}}}, "there is no [danceopd.teachers.base]"),
        ({"network": {"network_module": "networks.oft_flux"}}, 'needs "networks.lora_sd3"'),
        ({"saving": {"output_config": True}}, "output_config cannot be given here"),
        ({"dataset": {"dataset_config": "broken.toml"}}, "broken.toml"),
        ({"dataset": {"cache_text_encoder_outputs": True, "shuffle_caption": True}}, "shuffle_caption is on"),
    ],
)
def test_what_is_wrong_is_said(world, tmp_path, monkeypatch, sections, message):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.toml").write_text("[[datasets]\n", encoding="utf-8")
    sections = {name: dict(section) for name, section in sections.items()}
    danceopd = {"prompts": {"base": str(world.folder / "base.txt")}, **sections.pop("danceopd", {})}
    model = {**world.model, **sections.pop("model", {})}
    preset = world.preset(tmp_path, "base", model=model, danceopd=danceopd, **sections)
    assert message in refused(preset)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['custom_attributes.teacher = "inc"'], '"inc" is not a teacher of the preset. Did you mean "ink"?'),
        ([], "which teacher is this data for?"),
        (['custom_attributes.teacher = "base"'], 'the teacher "ink" has no data'),
        (['custom_attributes.teacher = "ink"', "is_reg = true"], "sd-scripts found no data there"),
        (['custom_attributes.teacher = "ink"', "flip_augs = true"], "extra keys not allowed"),
    ],
)
def test_a_subset_names_its_teacher(world, tmp_path, lines, message):  # noqa: F811
    folder = write_pictures(tmp_path / "pictures", ["a fox"])
    dataset = Path(write_dataset(tmp_path / "data.toml", [(folder, "x", [])]))
    text = dataset.read_text(encoding="utf-8").replace('custom_attributes.teacher = "x"', "\n".join(lines))
    dataset.write_text(text, encoding="utf-8")
    preset = world.preset(tmp_path, "ink", "base", dataset={"dataset_config": str(dataset)}, danceopd={"prompts": {}})
    assert message in refused(preset)


def test_regularisation_images_have_no_teacher(world, tmp_path):  # noqa: F811
    folders = [write_pictures(tmp_path / name, ["a fox"]) for name in ("own", "reg")]
    dataset = write_dataset(tmp_path / "data.toml", [(folders[0], "ink", []), (folders[1], "ink", ["is_reg = true"])])
    preset = world.preset(tmp_path, "ink", dataset={"dataset_config": dataset}, danceopd={"prompts": {}})
    assert "regularisation images do not have a teacher" in refused(preset)


def test_another_version_is_told(world, tmp_path, monkeypatch):  # noqa: F811
    """A copy of the checkout without its history: nobody knows what it is, and it works all the same."""
    copy = tmp_path / "sd-scripts"
    keep_out = shutil.ignore_patterns(".git", "docs", "images", "bitsandbytes_windows", "tests")
    shutil.copytree(prepare(), copy, ignore=keep_out)
    preset = world.preset(tmp_path, "ink")
    done = trained(preset, "--max_train_steps", "1", "--toolkit_dir", str(copy))
    assert "is of an unknown version, which is not tested. If it fails, check out a tested version: " in done.log
    assert "2025-08, commit 18e62515; 2026-02, commit 48d368fa; v0.11.1" in done.log


def teacher_file(world, path, change):  # noqa: F811
    save_file(change(load_file(world.teacher("ink")["lora"])), path)
    return {"ink": {"lora": str(path)}}


def test_text_encoder_parts_of_a_teacher(world, tmp_path):  # noqa: F811
    def with_text_encoder(tensors):
        key = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
        extra = {"lora_down.weight": torch.ones(4, 32), "lora_up.weight": torch.ones(32, 4), "alpha": torch.tensor(4.0)}
        return {**tensors, **{f"{key}.{name}": value for name, value in extra.items()}}

    teachers = teacher_file(world, tmp_path / "te.safetensors", with_text_encoder)
    message = refused(world.preset(tmp_path, "ink", danceopd={"teachers": teachers}))
    assert "[danceopd.teachers.ink]" in message
    assert "ignore_text_encoder" in message
    teachers["ink"]["ignore_text_encoder"] = True
    told = trained(world.preset(tmp_path, "ink", danceopd={"teachers": teachers}), probe="steps").seen
    plain = trained(world.preset(tmp_path, "ink"), probe="steps").seen
    assert told["loss"] == plain["loss"]


def test_a_teacher_in_diffusers_names_is_the_same_teacher(world, tmp_path):  # noqa: F811
    from danceopd_ext.cli import main

    converted = tmp_path / "ink.safetensors"
    main(["convert", world.teacher("ink")["lora"], str(converted), "--to", "diffusers"])
    assert any("transformer_blocks" in name for name in load_file(converted))
    ours = trained(world.preset(tmp_path / "a", "ink"), probe="steps").seen
    theirs = trained(
        world.preset(tmp_path / "b", "ink", danceopd={"teachers": {"ink": {"lora": str(converted)}}}), probe="steps"
    ).seen
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)


def test_a_teacher_for_another_size_or_layer_is_refused(world, tmp_path):  # noqa: F811
    def wider(tensors):
        name = next(name for name in tensors if name.endswith("attn_proj.lora_down.weight"))
        return {**tensors, name: torch.ones(4, 64)}

    teachers = teacher_file(world, tmp_path / "wide.safetensors", wider)
    assert "[danceopd.teachers.ink]" in refused(world.preset(tmp_path, "ink", danceopd={"teachers": teachers}))


def test_a_student_that_breaks_down_stops_the_run(world, tmp_path):  # noqa: F811
    steep = {
        "optimizer_type": "SGDNesterov",
        "optimizer_args": ["momentum=0.9"],
        "learning_rate": 100,
        "max_grad_norm": 0,
    }
    preset = world.preset(tmp_path, "ink", optimizer=steep, training={"max_train_steps": 60})
    done = run(preset)
    assert done.code == 1
    assert "stopped: the loss of step" in done.log
    assert "Traceback" not in done.log


def test_every_refused_key_is_one_of_the_parsers():
    import sd3_train_network

    known = {action.dest for action in sd3_train_network.setup_parser()._actions}
    assert {"loss_type", "noise_offset", "masked_loss"} <= {rule.key for rule in RULES} & known
