"""Recognises another program's file in place of a dataset configuration, and gives its keys' names in kohya's format.

Sources: musubi-tuner dataset/config_utils.py; diffusion-pipe examples/dataset.toml; ai-toolkit config/examples;
OneTrainer's concepts.json; SimpleTuner's data backend configuration; sd-scripts library/train_util.py (arguments of the
training, and metadata files).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from danceopd_ext.data.user_paths import PROMPT_SUFFIXES
from danceopd_ext.errors import few

IMAGE_DIR = 'here "image_dir" of [[datasets.subsets]]'
SOURCE_DIR = 'here "conditioning_data_dir" of [[datasets.subsets]]'
METADATA = 'here "metadata_file" of [[datasets.subsets]]'
RESOLUTION = 'here "resolution" of [[datasets]], one size or a list of them'
NO_VIDEO = "leave it out: videos are not supported here"
NO_NEED = "leave it out: it has no effect here"
CACHE = 'leave it out: caches are in "text_encoder_cache_dir" of the preset'

MUSUBI: dict[str, str] = {
    "image_directory": IMAGE_DIR,
    "image_jsonl_file": METADATA,
    "control_directory": 'here "control_directory" of [[datasets.subsets]]',
    "cache_directory": CACHE,
    **dict.fromkeys(
        ("video_directory", "video_jsonl_file", "target_frames", "frame_extraction", "frame_stride", "frame_sample"),
        NO_VIDEO,
    ),
    **dict.fromkeys(("max_frames", "source_fps"), NO_VIDEO),
    **dict.fromkeys(("multiple_target", "no_resize_control", "control_resolution"), NO_NEED),
    **dict.fromkeys(("flux_kontext_no_resize_control", "qwen_image_edit_no_resize_control"), NO_NEED),
    **dict.fromkeys(("qwen_image_edit_control_resolution", "fp_latent_window_size", "fp_1f_no_post"), NO_NEED),
    **dict.fromkeys(("fp_1f_clean_indices", "fp_1f_target_index"), NO_NEED),
}
DIFFUSION_PIPE: dict[str, str] = {
    "directory": "here [[datasets]] and below it [[datasets.subsets]] with image_dir",
    "resolutions": RESOLUTION,
    "enable_ar_bucket": 'here "enable_bucket"',
    **dict.fromkeys(
        ("ar_buckets", "size_buckets", "min_ar", "max_ar", "num_ar_buckets"), "leave it out: see " + RESOLUTION[5:]
    ),
    "frame_buckets": NO_VIDEO,
    **dict.fromkeys(("mask_path", "default_mask_file"), NO_NEED),
    "control_path": SOURCE_DIR,
    "shuffle_tags": 'here "shuffle_caption"',
}
AI_TOOLKIT: dict[str, str] = {
    "folder_path": IMAGE_DIR,
    "caption_ext": 'here "caption_extension"',
    "control_path": SOURCE_DIR,
    "default_caption": 'here "class_tokens"',
    "shuffle_tokens": 'here "shuffle_caption"',
    **dict.fromkeys(("cache_latents_to_disk", "cache_latents", "cache_text_embeddings"), CACHE),
}
#: training keys of sd-scripts with the same meaning as keys of a dataset configuration
OF_DATASETS: dict[str, str] = {
    "train_data_dir": IMAGE_DIR,
    "in_json": METADATA,
    "reg_data_dir": "leave it out: the LoRA learns from teachers and needs no regularisation images",
    "train_batch_size": 'in the preset; for this dataset alone "batch_size" of [[datasets]]',
    "dataset_repeats": 'here "num_repeats"',
}
#: keys and sections that identify a training configuration
_OF_TRAINING = {
    *OF_DATASETS,
    *("danceopd", "pretrained_model_name_or_path", "output_dir", "output_name", "learning_rate", "max_train_steps"),
    *("max_train_epochs", "network_dim", "network_alpha", "network_module", "optimizer_type", "lr_scheduler"),
    *("mixed_precision", "gradient_checkpointing", "gradient_accumulation_steps", "dataset_config", "model_type"),
    *("save_every_n_steps", "save_every_n_epochs", "save_model_as", "logging_dir", "sample_prompts"),
}

_KOHYA = (
    "Here it is TOML in kohya's format: [[datasets]] with resolution, and below it [[datasets.subsets]] with image_dir."
)
_YAML = re.compile(r"^\s*(?:-\s+)?(?:job|config|process|datasets|folder_path)\s*:", re.MULTILINE)


def renamed(key: str) -> str:
    """Return what to do about a key of another program, or ""."""
    for keys in (MUSUBI, DIFFUSION_PIPE, AI_TOOLKIT, OF_DATASETS):
        if key in keys:
            return keys[key]
    return ""


def is_training(config: Mapping[str, object]) -> bool:
    """Return whether the tables configure a training: a preset, or a configuration of sd-scripts or diffusion-pipe."""
    return any(key in _OF_TRAINING for key in _top_and_sections(config)) or isinstance(config.get("dataset"), str)


def whose(config: Mapping[str, object]) -> str:
    """Return a sentence that says what the tables are instead of a dataset configuration, or ""."""
    keys = set(_keys_of_datasets(config))
    if "config" in config and ("job" in config or "meta" in config):
        return f"this is ai-toolkit's training configuration. {_KOHYA} ai-toolkit's folder_path is image_dir."
    if keys & {*MUSUBI} - {"control_directory"}:
        return f"this is musubi-tuner's dataset file. {_KOHYA}"
    if {*config} & {*DIFFUSION_PIPE}:
        return f"this is diffusion-pipe's dataset file. {_KOHYA}"
    if "dataset" in config and isinstance(config["dataset"], str):
        return f"this is diffusion-pipe's training configuration. {_KOHYA}"
    if keys & {*AI_TOOLKIT}:
        return f"these are ai-toolkit's keys. {_KOHYA}"
    if is_training(config):
        found = [key for key in _top_and_sections(config) if key in _OF_TRAINING]
        return f"this is a training configuration ({few(found)}). A dataset configuration is another file. {_KOHYA}"
    values = list(config.values())
    if values and all(isinstance(value, dict) and {"caption", "tags"} & {*value} for value in values):
        return f'this is a metadata file. {_KOHYA} Name it there as "metadata_file" of [[datasets.subsets]].'
    return ""


def whose_list(config: list) -> str:
    """Return a sentence that says what a .json file with a list is instead of a dataset configuration."""
    first = config[0] if config and isinstance(config[0], dict) else {}
    if "instance_data_dir" in first:
        return f"this is SimpleTuner's data backend file. {_KOHYA} SimpleTuner's instance_data_dir is image_dir."
    if "path" in first and ("text" in first or "image" in first):
        return f"these are OneTrainer's concepts. {_KOHYA} A concept's path is image_dir."
    return f"expected tables, not a list. {_KOHYA}"


def whose_text(path: Path, text: str) -> str:
    """Return a sentence that says what a file that is neither TOML nor .json is instead, or ""."""
    suffix = path.suffix.lower()
    if suffix in PROMPT_SUFFIXES:
        return f'this looks like a prompt file. Name it in [danceopd.prompts], such as NAME = "{path.name}".'
    if suffix in (".yaml", ".yml"):
        owner = "ai-toolkit's training configuration" if _YAML.search(text) else "YAML"
        return f"this is {owner}. {_KOHYA} ai-toolkit's folder_path is image_dir."
    return ""


def _keys_of_datasets(config: Mapping[str, object]) -> Iterator[str]:
    """Yield the keys of [general], of all [[datasets]] and of their subsets, whatever these are."""
    datasets = config.get("datasets")
    tables = [config.get("general"), *(datasets if isinstance(datasets, list) else [datasets])]
    for table in tables:
        if isinstance(table, dict):
            yield from table
            subsets = table.get("subsets")
            for subset in subsets if isinstance(subsets, list) else []:
                yield from subset if isinstance(subset, dict) else ()


def _top_and_sections(config: Mapping[str, object]) -> Iterator[str]:
    for key, value in config.items():
        yield key
        if isinstance(value, dict) and key != "general":
            yield from value
