"""What is said about a model_type that a toolkit does not have."""

from __future__ import annotations

import typing

import pytest

from danceopd_ext.config.fields import key_types
from danceopd_ext.config.load import load_preset
from danceopd_ext.config.model_types import ELSEWHERE, MODEL_TYPES, OTHER_WORDS, explain_model_type
from danceopd_ext.config.schema import SECTIONS
from danceopd_ext.config.split import HostedPreset
from danceopd_ext.errors import UserError
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.toolkits.musubi.registry import ARCHITECTURES as MUSUBI
from danceopd_ext.toolkits.musubi.registry import find_architecture
from danceopd_ext.toolkits.sd_scripts.registry import ARCHITECTURES as SD_SCRIPTS
from danceopd_ext.toolkits.sd_scripts.run import architecture_of


def test_the_names_are_those_of_the_registries():
    assert set(MODEL_TYPES["native"]) == set(FAMILIES)
    (literal, _) = typing.get_args(key_types(SECTIONS["model"])["model_type"])
    assert MODEL_TYPES["native"] == typing.get_args(literal)
    assert MODEL_TYPES["sd-scripts"] == tuple(SD_SCRIPTS)
    assert MODEL_TYPES["musubi-tuner"] == tuple(MUSUBI)
    known = {name for names in MODEL_TYPES.values() for name in names}
    assert set(OTHER_WORDS.values()) | {name for name, _ in ELSEWHERE} <= known


@pytest.mark.parametrize("toolkit", MODEL_TYPES)
@pytest.mark.parametrize(
    "word", ["sdxl", "SDXL 1.0", "sd15", "sd1.5", "sd2", "pony", "Pony-V6-XL", "illustrious", "kolors", "pixart_sigma"]
)
def test_models_that_do_not_match_flows(word, toolkit):
    told = explain_model_type(word, toolkit)
    assert f"{word} is not a flow-matching model" in told
    assert "Did you mean" not in told


@pytest.mark.parametrize(
    ("word", "toolkit", "told"),
    [
        ("z_image", "sd-scripts", ['toolkit = "native" with model_type = "z_image"', 'toolkit = "musubi-tuner" with']),
        ("Z-Image-Turbo", "sd-scripts", ['"native"', '"musubi-tuner"', '"z_image"']),
        ("qwen-image", "sd-scripts", ['"native"', '"musubi-tuner"', '"qwen_image"']),
        ("chroma", "native", ['toolkit = "sd-scripts" with model_type = "chroma"']),
        ("hunyuan_image", "musubi-tuner", ['toolkit = "sd-scripts"']),
        ("flux", "musubi-tuner", ['toolkit = "native"', 'toolkit = "sd-scripts"']),
        ("sd3.5", "musubi-tuner", ['toolkit = "native" with model_type = "sd3"']),
        ("klein", "musubi-tuner", ['Write model_type = "flux_2" with model_version.']),
        ("qwen_image_edit_plus", "musubi-tuner", ['model_type = "qwen_image_edit" with model_version']),
        ("z-image", "musubi-tuner", ['Did you mean "z_image"?']),
        ("sd3.5", "sd-scripts", ['Did you mean "sd3"?']),
        ("hunyuan_imag", "sd-scripts", ['Did you mean "hunyuan_image"?']),
    ],
)
def test_who_has_the_model(word, toolkit, told):
    text = explain_model_type(word, toolkit)
    assert all(part in text for part in told), text


def test_it_is_said_natively_and_in_a_toolkit(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text('model_type = "sdxl"\npretrained_model_name_or_path = "x"\n[danceopd.teachers.base]\n')
    with pytest.raises(UserError, match="sdxl is not a flow-matching model"):
        load_preset(path)
    with pytest.raises(UserError, match="sdxl is not a flow-matching model"):
        find_architecture("sdxl")
    preset = HostedPreset(path=path, toolkit="sd-scripts", danceopd=None, model_type="z_image", values={}, flags={})
    with pytest.raises(UserError, match=r'z_image is trained with toolkit = "native"'):
        architecture_of(preset)
