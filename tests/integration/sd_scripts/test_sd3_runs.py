"""Whole runs with SD3.5: the student learns, from mixed routes, and its file is one that others read."""

from collections import Counter
from statistics import mean

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from tests.integration.sd_scripts.native import native
from tests.integration.sd_scripts.runs import trained
from tests.integration.sd_scripts.world import world  # noqa: F401 - a fixture


@pytest.mark.parametrize(("rate", "learns"), [(2e-3, True), (1e-12, False)])
def test_the_student_learns_its_teacher(world, tmp_path, rate, learns):  # noqa: F811
    preset = world.preset(tmp_path, "ink", optimizer={"learning_rate": rate}, training={"max_train_steps": 100})
    losses = trained(preset, probe="steps").seen["loss"]
    assert len(losses) == 100
    fell = mean(losses[-10:]) / mean(losses[:10])
    assert fell <= 0.35 if learns else fell > 0.7


def write_pictures(folder, captions):
    folder.mkdir()
    for number, caption in enumerate(captions):
        Image.new("RGB", (64, 64)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption, encoding="utf-8")
    return folder


def write_dataset(path, subsets, workers_table=False):
    """`subsets`: (folder, teacher, more lines). Teachers as dotted keys, or as inline tables."""
    lines = ["[[datasets]]", "resolution = 64", "batch_size = 2"]
    for folder, teacher, more in subsets:
        own = f'{{ teacher = "{teacher}" }}' if workers_table else None
        key = f"custom_attributes = {own}" if own else f'custom_attributes.teacher = "{teacher}"'
        lines += ["[[datasets.subsets]]", f'image_dir = "{folder}"', 'caption_extension = ".txt"', key, *more]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_two_teachers_and_the_base_from_pictures_and_prompts(world, tmp_path):  # noqa: F811
    """Mixed batches; the routes' shares hold over both kinds of data; the saved file is read by others."""
    ink = write_pictures(tmp_path / "ink", ["ink fox", "ink hen"])
    base = write_pictures(tmp_path / "base", ["a plain fox"])
    dataset = write_dataset(tmp_path / "data.toml", [(ink, "ink", ["num_repeats = 5"]), (base, "base", [])])
    preset = world.preset(
        tmp_path, "base", "ink", "glow", dataset={"dataset_config": dataset}, training={"max_train_steps": 20},
        danceopd={"prompts": {"glow": str(world.folder / "glow.txt")}, "routes": {"glow": 2.0}},
        saving={"logging_dir": str(tmp_path / "logs"), "log_with": "tensorboard"},
    )  # fmt: skip
    done = trained(preset, probe="steps")
    counts = Counter(route for batch in done.seen["routes"] for route in batch)
    assert counts["glow"] / sum(counts.values()) == pytest.approx(0.5, abs=0.15)
    assert min(counts["ink"], counts["base"]) > 0
    assert any(len(set(batch)) > 1 for batch in done.seen["routes"])
    assert {name for logs in done.seen["logs"] for name in logs} >= {"loss/ink", "loss/base", "loss/glow"}
    expect_a_readable_lora(world, done)


def expect_a_readable_lora(world, done):  # noqa: F811
    from networks import lora_sd3

    from tests.integration.sd_scripts import tiny_sd3

    tensors = load_file(done.lora)
    network, _ = lora_sd3.create_network_from_weights(1.0, str(done.lora), None, [], tiny_sd3.model())
    network.apply_to([], None, False, True)
    network.load_state_dict(tensors, strict=True)
    with safe_open(done.lora, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_danceopd_teachers"] == '{"base": "base", "ink": "ink", "glow": "glow"}'
    assert metadata["ss_danceopd_routes"] == '{"base": 1.0, "ink": 1.0, "glow": 2.0}'
    assert not [key for key, value in metadata.items() if str(done.folder) in value or str(world.folder) in value]

    ours = native(
        "convert", world.model["pretrained_model_name_or_path"], done.lora, done.folder / "diffusers.safetensors"
    )
    theirs = velocity_in_the_toolkit(world.model["pretrained_model_name_or_path"], str(done.lora), ours)
    assert (ours["velocity"] - theirs).norm() / theirs.norm() < 1e-4
    plain = velocity_in_the_toolkit(world.model["pretrained_model_name_or_path"], None, ours)
    assert (plain - theirs).norm() / theirs.norm() > 1e-3  # the LoRA does something


def velocity_in_the_toolkit(checkpoint, lora, asked):
    from tests.integration.sd_scripts.probes import separate_model

    model = separate_model(checkpoint, lora)
    with torch.no_grad():
        return model(asked["z"], asked["sigma"] * 1000, context=asked["context"], y=asked["pooled"])


def test_prompts_of_several_sizes(world, tmp_path):  # noqa: F811
    (tmp_path / "wide.txt").write_text("a wide cat --w 96 --h 64\na cat\n", encoding="utf-8")
    preset = world.preset(
        tmp_path, "ink", dataset={"resolution": ["64,64", "64,96"]}, training={"max_train_steps": 6},
        danceopd={"prompts": {"ink": str(tmp_path / "wide.txt")}},
    )  # fmt: skip
    shapes = {tuple(shape) for shape in trained(preset, probe="steps").seen["shape"]}
    assert shapes == {(16, 8, 8), (16, 12, 8), (16, 8, 12)}


def test_an_inline_table_and_workers(world, tmp_path):  # noqa: F811
    """toml's inline tables cannot be pickled; workers that get one never start."""
    folder = write_pictures(tmp_path / "ink", ["ink fox", "ink hen"])
    dataset = write_dataset(tmp_path / "data.toml", [(folder, "ink", [])], workers_table=True)
    preset = world.preset(
        tmp_path, "ink", "base", dataset={"dataset_config": dataset}, danceopd={"prompts": {}, "routes": {"base": 0.0}},
        training={"max_data_loader_n_workers": 2, "persistent_data_loader_workers": True},
    )  # fmt: skip
    assert trained(preset, probe="steps").seen["step"] == [0, 1, 2, 3]


def test_previews_and_changing_captions(world, tmp_path):  # noqa: F811
    """Pictures are drawn by the toolkit while training; captions that change keep the text encoders in use."""
    samples = tmp_path / "samples.txt"
    samples.write_text("a cat --w 64 --h 64 --d 1 --s 2 --l 3\n", encoding="utf-8")
    preset = world.preset(
        tmp_path, "ink", dataset={"shuffle_caption": True},
        sampling={"sample_prompts": str(samples), "sample_every_n_steps": 2},
    )  # fmt: skip
    done = trained(preset, "--gradient_checkpointing", probe="steps")
    assert "shuffle_caption is on, so texts are encoded at every step" in done.log
    assert len(list((tmp_path / "out" / "sample").glob("*.png"))) == 2
    quiet = world.preset(tmp_path / "quiet", "ink", dataset={"shuffle_caption": True})
    assert trained(quiet, "--gradient_checkpointing", probe="steps").seen["loss"] == done.seen["loss"]
