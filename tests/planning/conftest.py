"""A tiny model folder and presets for it."""

from __future__ import annotations

import pytest

from danceopd_ext.config import load_preset
from danceopd_ext.planning.of_preset import work_of_preset
from tests.tiny.families.z_image import z_image_pipeline, z_image_transformer
from tests.tiny.pipelines import save
from tests.tiny.presets import write_preset


@pytest.fixture(scope="session")
def z_image(tmp_path_factory):
    """The folder of a Z-Image with six layers, without a single weight."""
    pipeline = z_image_pipeline()
    pipeline.register_modules(transformer=z_image_transformer(layers=6))
    folder = save(pipeline, tmp_path_factory.mktemp("planned") / "model")
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    return folder


@pytest.fixture
def preset_file(z_image, tmp_path):
    """Write a preset for it, with keys, whose LoRA is not there yet."""

    def preset_file(**keys):
        teachers = keys.pop("teachers", {"style": {"lora": "style.safetensors"}})
        return write_preset(tmp_path, z_image, teachers, **{"gradient_checkpointing": True, "resolution": 64, **keys})

    return preset_file


@pytest.fixture
def work(preset_file):
    """What a preset with these keys asks."""
    return lambda **keys: work_of_preset(load_preset(preset_file(**keys)))
