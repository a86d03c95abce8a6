"""Every preset that is shipped: both TOML readers take it, and with its blanks filled in it passes every check."""

import re
from pathlib import Path

import pytest
import toml
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image

from danceopd_ext.config import load_preset
from danceopd_ext.config.hosted_preset import split_preset
from danceopd_ext.data.route_weights import check_weights
from danceopd_ext.foreign.toml import read_toml
from danceopd_ext.lora.write import write_lora
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.toolkits.hosted.out_of_memory import FP8_TEXT
from danceopd_ext.toolkits.native.prepare import prepare
from tests.tiny.loras import random_lora
from tests.tiny.pipelines import ALL, save_any
from tests.tiny.single_file import to_single_file

FOLDER = Path(__file__).resolve().parents[1] / "presets"
#: for a checkout of a toolkit; what is the toolkit's own of them is held against its parser in tests/integration
HOSTED = sorted([*FOLDER.glob("musubi_*.toml"), *FOLDER.glob("sd_scripts_*.toml")])
MUSUBI = [path for path in HOSTED if path.stem.startswith("musubi_")]
PRESETS = sorted(set(FOLDER.glob("*.toml")) - set(HOSTED))
REAL = [path for path in PRESETS if path.stem != "quickstart"]
#: how a preset's name begins, and whose it is
FAMILY_OF = {"sd35": "sd3", "z_image": "z_image", "flux_kontext": "flux_kontext", "qwen_image_edit": "qwen_image_edit"}
#: what stands in a prompt file, by its suffix and whether the model edits
PROMPTS = {
    (".txt", False): "a red cat --w 32 --h 32\n",
    (".txt", True): "make it red --w 32 --h 32 --ci a.png\n",
    (".csv", True): "prompt,source\nmake it red,a.png\n",
}


def test_every_purpose_has_a_preset_for_every_model():
    purposes = ("fuse_loras", "absorb_checkpoint", "absorb_guidance")
    drawing = {f"{model}_{what}" for model in ("sd35_medium", "z_image") for what in purposes}
    assert {p.stem for p in REAL} == drawing | {"flux_kontext_fuse_edits", "qwen_image_edit_fuse"}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_both_readers_and_the_schema_take_it(path):
    text = path.read_text(encoding="utf-8")
    assert toml.loads(text) == read_toml(path)
    preset = load_preset(path)
    assert preset.danceopd.teachers.keys() == preset.danceopd.prompts.keys()
    for words in ("What it is for", "What it costs"):
        assert words in text[:800]


@pytest.mark.parametrize("path", HOSTED, ids=lambda path: path.stem)
def test_both_readers_take_a_toolkits_preset_and_our_part_of_it_is_right(path):
    text = path.read_text(encoding="utf-8")
    assert toml.loads(text) == read_toml(path)
    preset = split_preset(path)
    assert path.stem.startswith(preset.toolkit.split("-")[0])
    teachers = list(preset.danceopd.teachers)
    assert {*preset.danceopd.prompts, *preset.danceopd.datasets, *preset.danceopd.routes} <= set(teachers)
    assert check_weights(preset.danceopd.routes, teachers) == dict.fromkeys(teachers, 1.0)
    for words in ("What it is for", "What it costs"):
        assert words in text[:1000]


@pytest.mark.parametrize("path", MUSUBI, ids=lambda path: path.stem)
def test_the_caching_commands_are_whole_and_of_this_preset(path):
    """Both of them, in one line each, with the files and the switches that the preset itself has."""
    text = path.read_text(encoding="utf-8")
    keys = dict(re.findall(r'^(?:# )?(\w+) = "?([^"\s]+)', text, re.MULTILINE))  # commented ones as well
    (latents,), (texts,) = (
        re.findall(rf"^#     python src/musubi_tuner/\w+_cache_{what}.py (.*)$", text, re.MULTILINE)
        for what in ("latents", "text_encoder_outputs")
    )
    given = [dict(re.findall(r"--(\w+)(?: ([^-\s]\S*))?", words)) for words in (latents, texts)]
    assert given[0].keys() >= {"dataset_config", "vae"}
    for options in given:
        for name, value in options.items():
            if name != "batch_size":
                assert keys.get(name, "original") == (value or "true"), name
        assert ("model_version" in options) == ("model_version" in keys or "qwen" in path.stem)
    encoders = {name for name in keys if name.startswith("text_encoder")}
    assert encoders
    assert encoders | {"dataset_config"} <= given[1].keys()
    own = {name for name, value in keys.items() if name in FP8_TEXT and value == "true"}
    assert len(own) == (0 if "kontext" in path.stem else 1), "musubi's scripts for Kontext fail with --fp8_t5"
    assert own <= given[1].keys()


@pytest.mark.parametrize("path", HOSTED, ids=lambda path: path.stem)
def test_a_toolkits_preset_runs_from_inside_the_checkout(path):
    """A folder named in it would have to be right."""
    text = path.read_text(encoding="utf-8")
    assert split_preset(path).danceopd.toolkit_dir is None
    assert re.search(r"^# toolkit_dir = ", text, re.MULTILINE)


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_with_its_blanks_filled_in_it_passes_every_check(path, tmp_path, monkeypatch):
    family = FAMILIES[next(name for start, name in FAMILY_OF.items() if path.stem.startswith(start))]
    model = save_any(family.name, tmp_path / "model")
    transformer = ALL[family.name]().transformer
    text = path.read_text(encoding="utf-8")
    text = re.sub(r'(pretrained_model_name_or_path = )".*?"', r'\1"model"', text)
    text = re.sub(r"resolution = 1024", "resolution = 32", text).replace('"AdamW8bit"', '"AdamW"')
    (tmp_path / "preset.toml").write_text(text, encoding="utf-8")
    for name in re.findall(r'"((?:loras|prompts|checkpoints)/.*?)"', text):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        if file.parent.name == "prompts":
            file.write_text(PROMPTS[file.suffix, family.can_edit], encoding="utf-8")
            Image.new("RGB", (64, 48)).save(file.with_name("a.png"))
        elif file.parent.name == "loras":
            layout = family.layout(transformer)
            write_lora(file, random_lora(layout, family.lora_targets, 1), layout, "kohya", {}, torch.float32)
        else:
            to_single_file(family.name, transformer, file)
    monkeypatch.chdir(tmp_path)
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    plan = prepare(load_preset("preset.toml"), Accelerator(cpu=True))
    assert model.is_dir()
    assert plan.family is family
    assert plan.previews
    assert set(plan.teachers) == set(plan.data.routes)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name == "output") == []
