"""Files of other programs, and other files of this one, that are given as dataset configuration."""

from __future__ import annotations

import json

import pytest

from danceopd_ext.data.dataset_toml import read_dataset_config
from danceopd_ext.errors import UserError

MUSUBI = """
[general]
resolution = [64, 64]
caption_extension = ".txt"
[[datasets]]
image_directory = "img"
cache_directory = "cache"
num_repeats = 1
[[datasets]]
image_jsonl_file = "a.jsonl"
control_directory = "control"
cache_directory = "cache_2"
"""
DIFFUSION_PIPE = """
resolutions = [512]
enable_ar_bucket = true
min_ar = 0.5
frame_buckets = [1, 33]
[[directory]]
path = "/home/images"
num_repeats = 10
"""
TRAINING = """
bucket_no_upscale = true
resolution = "64,64"
train_data_dir = "img"
learning_rate = 1e-4
network_dim = 16
"""
PRESET = """
[model]
pretrained_model_name_or_path = "model"
[dataset]
resolution = 64
[danceopd.teachers.base]
"""
AI_TOOLKIT = "job: extension\nconfig:\n  name: x\n  process:\n    - datasets:\n        - folder_path: img\n"


def message_of(folder, name, content):
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_dataset_config(folder / name, ["style"])
    message = str(caught.value)
    assert message.startswith(f"{folder / name} (dataset_config): ")
    assert len(message) < 2000
    return message.removeprefix(f"{folder / name} ")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "ds.toml",
            MUSUBI,
            [
                "musubi-tuner's dataset file",
                'dataset 1: unknown key "image_directory" in [[datasets]]: here "image_dir" of [[datasets.subsets]].',
                'dataset 1, dataset 2: unknown key "cache_directory"',
                'dataset 2: unknown key "image_jsonl_file" in [[datasets]]: here "metadata_file"',
                '"control_directory" does not belong in [[datasets]]; move it to [[datasets.subsets]]',
            ],
        ),
        (
            "ds.toml",
            DIFFUSION_PIPE,
            [
                "diffusion-pipe's dataset file",
                *('"resolutions": here "resolution"', '"enable_ar_bucket": here "enable_bucket"', '"min_ar"'),
                *('"frame_buckets": leave it out: videos', 'unknown table "directory": here [[datasets]]'),
            ],
        ),
        ("pipe.toml", 'dataset = "ds.toml"\nepochs = 3\n[adapter]', ["diffusion-pipe's training", "epochs, adapter"]),
        (
            "ds.toml",
            TRAINING,
            [
                "this is a training configuration (train_data_dir, learning_rate, network_dim)",
                '"bucket_no_upscale" does not belong at the top; move it to [general].',
                '"resolution" does not belong at the top; move it to [general].',
                '"train_data_dir": here "image_dir" of [[datasets.subsets]].',
                "These keys belong in the preset, the file given as --config: learning_rate, network_dim.",
            ],
        ),
        ("preset.toml", PRESET, ["this is a training configuration", "given as --config: model, dataset, danceopd."]),
        ("gui.json", '{"train_data_dir": "img", "output_name": "x"}', ["this is a training configuration"]),
        ("job.yaml", AI_TOOLKIT, ["ai-toolkit's training configuration", "folder_path is image_dir"]),
        ("x.yml", "a: 1", ["this is YAML", "kohya's format"]),
        ("job.json", '{"job": "extension", "config": {}}', ["ai-toolkit's training configuration"]),
        ("ds.toml", '[[datasets]]\nfolder_path = "img"\n', ["ai-toolkit's keys", '"folder_path" in [[datasets]]']),
        ("concepts.json", '[{"path": "img", "text": {}, "image": {}}]', ["OneTrainer's concepts", "path is image_dir"]),
        ("back.json", '[{"id": "a", "instance_data_dir": "img"}]', ["SimpleTuner's", "instance_data_dir is image_dir"]),
        ("list.json", "[1]", ["expected tables, not a list", "[[datasets.subsets]]"]),
        ("meta.json", '{"a.png": {"caption": "a cat"}}', ["this is a metadata file", '"metadata_file"']),
        ("p.csv", "prompt\na cat\n", ["looks like a prompt file", '[danceopd.prompts], such as NAME = "p.csv"']),
        ("p.txt", "a cat\n", ["looks like a prompt file"]),
        ("p.jsonl", '{"prompt": "a cat"}\n', ["looks like a prompt file"]),
    ],
)  # fmt: skip
def test_another_file_is_named_for_what_it_is(tmp_path, name, content, words):
    message = message_of(tmp_path, name, content)
    assert all(word in message for word in words), message


def test_everything_wrong_is_told_at_once_with_its_place(tmp_path):
    toml = """
enable_bucket = true
[general]
keep_tokns = 1
[[datasets]]
resolution = 64
batch_size = 0
  [[datasets.subsets]]
  image_dir = "a"
  num_repeat = 2
  shuffle_caption = "yes"
  [[datasets.subsets]]
  image_dir = "b"
  num_repeat = 2
"""
    message = message_of(tmp_path, "ds.toml", toml)
    for words in (
        "5 things are wrong. ",
        '"enable_bucket" does not belong at the top; move it to [general].',
        '[general]: unknown key "keep_tokns" in [general]. Did you mean "keep_tokens"?',
        "dataset 1: batch_size = 0 is wrong: expected an integer of at least 1.",
        'dataset 1, subset 1, dataset 1, subset 2: unknown key "num_repeat" in [[datasets.subsets]]. Did you mean',
        "dataset 1, subset 1: shuffle_caption = 'yes' is wrong: expected true or false.",
    ):
        assert words in message


@pytest.mark.parametrize(
    "content", ["[[a]]\n" * 3, "[datasets]\n[general]", "general = 3", "datasets = 3", "datasets = [3]"]
)
def test_tables_of_other_kinds_do_not_crash(tmp_path, content):
    (tmp_path / "ds.toml").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"ds\.toml"):
        read_dataset_config(tmp_path / "ds.toml", ["style"])


@pytest.mark.parametrize(
    "content", ["null", "3", '"x"', "[[[]]]", "{}", '{"datasets": null}', '{"datasets": [{"subsets": 3}]}']
)
def test_json_of_other_kinds_does_not_crash(tmp_path, content):
    (tmp_path / "ds.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"ds\.json"):
        read_dataset_config(tmp_path / "ds.json", ["style"])


def test_what_no_parser_can_hold_is_not_valid(tmp_path):
    for name, content, words in (
        ("ds.toml", "a = " + "9" * 5000, "not valid TOML"),
        ("ds.toml", "a = " + "[" * 5000, "not valid TOML"),
        ("ds.json", "[" * 100_000, "not valid JSON"),
        ("ds.json", json.dumps({"general": {"x" * 300_000: 1}}), "unknown key"),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=words) as caught:
            read_dataset_config(tmp_path / name, ["style"])
        assert len(str(caught.value)) < 2000
