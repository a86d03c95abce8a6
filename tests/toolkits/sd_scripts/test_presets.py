"""What the shipped presets for sd-scripts say, where no toolkit is needed to see it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from danceopd_ext.config.hosted_preset import split_preset
from danceopd_ext.config.toolkits import SD_SCRIPTS
from danceopd_ext.toolkits.hosted.checkout import find_toolkit

PRESETS = sorted((Path(__file__).resolve().parents[3] / "presets").glob("sd_scripts_*.toml"))


@pytest.fixture(params=PRESETS, ids=lambda path: path.stem)
def preset(request):
    return split_preset(request.param)


def test_there_is_one_for_every_architecture():
    assert len(PRESETS) == 6


def test_it_runs_from_inside_any_checkout(preset, tmp_path):
    """A folder that the preset names would win over the one that the user started in."""
    for mark in SD_SCRIPTS.checkout.marks:
        (tmp_path / "my-sd-scripts" / mark).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "my-sd-scripts" / mark).touch()
    assert preset.danceopd.toolkit_dir is None
    found = find_toolkit("sd-scripts", preset.danceopd.toolkit_dir, {}, tmp_path / "my-sd-scripts")
    assert found.folder == tmp_path / "my-sd-scripts"
    assert re.search(r"^# toolkit_dir = ", preset.path.read_text(encoding="utf-8"), re.MULTILINE)


def test_its_head_says_what_the_text_encoder_takes(preset):
    assert re.search(r"encodes the prompts before that, alone: [\d.]+ Gi?B", preset.path.read_text(encoding="utf-8"))


def test_hunyuan_image_draws_at_its_own_size_with_an_encoder_that_fits():
    [path] = [path for path in PRESETS if "hunyuan_image" in path.stem]
    values = split_preset(path).values
    assert values["resolution"] == 2048
    assert values["fp8_vl"] is True
    assert values["fp8_scaled"] is True
