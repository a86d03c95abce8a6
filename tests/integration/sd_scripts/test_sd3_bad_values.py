"""Values that end a run of the toolkit with a traceback, mostly after it has loaded everything, end before it."""

# ruff: noqa: F811 - the fixture is imported

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.integration.sd_scripts.runs import refused
from tests.integration.sd_scripts.test_sd3_runs import write_dataset, write_pictures
from tests.integration.sd_scripts.world import World, world  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def foreign(world) -> World:
    """The world with a LoRA of FLUX.1, half of a file, a model without its prefix, and a file of text."""
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    save_file(
        {f"{key}.lora_down.weight": torch.ones(4, 3072), f"{key}.lora_up.weight": torch.ones(9216, 4)},
        world.folder / "flux.safetensors",
    )
    whole = Path(world.teacher("ink")["lora"]).read_bytes()
    (world.folder / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    model = load_file(world.model["pretrained_model_name_or_path"])
    names = {name.removeprefix("model.diffusion_model."): tensor for name, tensor in model.items()}
    save_file(names, world.folder / "bare.safetensors")
    (world.folder / "notes.txt").write_text("hello", encoding="utf-8")
    return world


def here(world: World, value):
    """`@name`: a file of the world; `@clip_l` and the like: of the model."""
    if isinstance(value, list):
        return [here(world, one) for one in value]
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    return world.model.get(value[1:]) or str(world.folder / value[1:])


CASES = [
    ("model", "clip_l", "@t5xxl", "this is not CLIP-L; it looks like T5-XXL"),
    ("model", "t5xxl", "@clip_l", "this is not T5-XXL; it looks like CLIP-L"),
    ("model", "vae", "@t5xxl", "this is not a VAE; it looks like T5-XXL"),
    ("model", "clip_g", "@half.safetensors", "is not a complete .safetensors file"),
    ("model", "clip_l", "@notes.txt", "is not a .safetensors file"),
    ("model", "t5xxl", None, "t5xxl is missing"),
    ("model", "clip_g", None, "clip_g is missing"),
    ("model", "vae", None, "vae is missing"),
    ("model", "pretrained_model_name_or_path", "@ink.safetensors", "it looks like a LoRA"),
    ("model", "pretrained_model_name_or_path", "@clip_l", "it looks like CLIP-L"),
    ("model", "pretrained_model_name_or_path", "@bare.safetensors", "transformer of Stable Diffusion 3 alone"),
    ("model", "pretrained_model_name_or_path", "@model", "is a folder"),
    ("model", "tokenizer_cache_dir", "@notes.txt", "tokenizer_cache_dir"),
    ("optimizer", "optimizer_type", "AdamX", 'optimizer_type = "AdamX"'),
    ("optimizer", "optimizer_type", "PagedAdamW32bit", "No bitsandbytes. Install the package"),
    ("optimizer", "optimizer_args", ["nonsense=1"], "unexpected keyword argument 'nonsense'"),
    ("optimizer", "lr_scheduler", "cosinus", 'lr_scheduler = "cosinus"'),
    ("optimizer", "lr_scheduler_type", "Gone", 'lr_scheduler_type = "Gone"'),
    ("optimizer", "learning_rate", 0.0, "write a number above 0"),
    ("saving", "output_dir", "@notes.txt", "output_dir"),
    ("saving", "output_dir", "@notes.txt/below", "output_dir"),
    ("saving", "output_name", "a/b", "output_name = 'a/b'"),
    ("training", "blocks_to_swap", 40, "blocks_to_swap = 40: 0 to 0 blocks of this Stable Diffusion 3 / 3.5"),
    ("training", "mixed_precision", "fp16", "needs a GPU"),
    ("training", "max_train_steps", 0, "of at least 1"),
    ("training", "train_batch_size", 0, "of at least 1"),
    ("training", "seed", 2**33, "of at most 4,294,967,295"),
    ("training", "seed", 2**64, "a whole number of more than 64 bits"),
    ("network", "network_dim", 0, "of at least 1"),
    ("network", "network_args", ["x_atn_dim=4"], 'Did you mean "x_attn_dim"?'),
    ("network", "network_args", ["attn_dim"], "write key=value"),
    ("network", "network_weights", "@ink.safetensors", "its rank is 4, but network_dim = 8"),
    ("network", "network_weights", "@flux.safetensors", "are not in the model"),
    ("network", "network_weights", "@half.safetensors", "is not a complete .safetensors file"),
    ("network", "dim_from_weights", True, "needs network_weights"),
    ("network", "base_weights", ["@gone.safetensors"], "there is no such file"),
    ("network", "base_weights", ["@flux.safetensors"], "are not in the model"),
    ("logging", "logging_dir", "@notes.txt", "logging_dir"),
    ("sampling", "sample_prompts", "@sd35.log", "there is no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "key", "value", "message"), CASES)
def test_a_bad_value_ends_before_anything_is_loaded(foreign, tmp_path, section, key, value, message):
    sections = {section: {key: here(foreign, value)}}
    if section == "model":
        sections["model"] = {**foreign.model, **sections["model"]}
    found = refused(foreign.preset(tmp_path, "ink", **sections))
    assert message in found
    assert not (tmp_path / "out").exists()
    assert "loading model" not in (tmp_path / "preset.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["gone", "flux", "half"])
def test_a_teacher_is_looked_at_first(foreign, tmp_path, name):
    teachers = {"ink": {"lora": str(foreign.folder / f"{name}.safetensors")}}
    assert refused(foreign.preset(tmp_path, "ink", danceopd={"teachers": teachers})).startswith(
        "[danceopd.teachers.ink]"
    )
    assert "loading model" not in (tmp_path / "preset.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['metadata_file = "gone.jsonl"'], 'metadata_file = "gone.jsonl": there is no such file or folder'),
        (['metadata_file = "META"'], "not valid JSON"),
    ],
)
def test_the_files_of_a_dataset_are_looked_for_first(foreign, tmp_path, lines, message):
    (tmp_path / "broken.json").write_text("{nonsense", encoding="utf-8")
    folder = write_pictures(tmp_path / "pictures", ["a fox"])
    lines = [line.replace("META", str(tmp_path / "broken.json")) for line in lines]
    dataset = write_dataset(tmp_path / "data.toml", [(folder, "ink", lines)])
    preset = foreign.preset(tmp_path, "ink", dataset={"dataset_config": dataset}, danceopd={"prompts": {}})
    assert message in refused(preset)
