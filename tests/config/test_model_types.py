"""What is said about a model_type that a toolkit does not have."""

from __future__ import annotations

import typing
from dataclasses import replace

import pytest

from danceopd_ext.config.fields import key_types
from danceopd_ext.config.hosted_preset import HostedPreset
from danceopd_ext.config.load import load_preset
from danceopd_ext.config.model_types import explain_model_type
from danceopd_ext.config.schema import SECTIONS
from danceopd_ext.config.toolkits import NATIVE, TOOLKITS, hosted_toolkits
from danceopd_ext.errors import UserError
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.toolkits.hosted.architecture import Architectures, find_architecture


def test_the_names_are_those_of_the_registries():
    (literal, _) = typing.get_args(key_types(SECTIONS["model"])["model_type"])
    assert typing.get_args(literal) == tuple(FAMILIES) == tuple(NATIVE.models)
    for toolkit in hosted_toolkits().values():
        assert all(found.model_type == name for name, found in Architectures(toolkit).items())
    known = {name for toolkit in TOOLKITS.values() for name in toolkit.models}
    for toolkit in TOOLKITS.values():
        assert set(toolkit.other_words.values()) | set(toolkit.spelled) <= known


def test_every_other_word_of_a_family_means_that_family():
    for name, family in FAMILIES.items():
        for word in vars(type(family)).get("other_words", ()):
            assert f'Did you mean "{name}"?' in explain_model_type(word, "native")


@pytest.mark.parametrize("toolkit", TOOLKITS)
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
    preset = HostedPreset(path=path, toolkit="sd-scripts", danceopd=None, model_type="z_image", values={}, flags={})
    with pytest.raises(UserError, match="sdxl is not a flow-matching model"):
        find_architecture(replace(preset, toolkit="musubi-tuner", model_type="sdxl"))
    with pytest.raises(UserError, match=r'z_image is trained with toolkit = "native"'):
        find_architecture(preset)
