"""Runs of the native trainer on tiny presets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from danceopd_ext.cli import run
from danceopd_ext.toolkits.run import main
from tests.tiny.loras import write_random_lora
from tests.tiny.presets import write_preset
from tests.toolkits.runs import BASE, QUICK, forget_accelerate

#: a few updates of a few samples
SHORT = {
    "max_train_steps": 16,
    "rollout_steps": 3,
    "train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "network_dim": 8,
}


@pytest.fixture(scope="session")
def two_teachers(loras):
    """Family name -> two LoRA teachers for a preset."""
    return {
        family: {"one": {"lora": str(loras[family, 0])}, "two": {"lora": str(loras[family, 1])}}
        for family in ("sd3", "z_image")
    }


@pytest.fixture
def refused(capsys):
    """Run a preset that is wrong: exit code 2, nothing written, and one message, which is returned."""

    def refused(preset: Path, *arguments: object) -> str:
        before = sorted(preset.parent.rglob("*"))
        forget_accelerate()
        code = run(main, ["--config", str(preset), *map(str, arguments)])
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert code == 2
        assert len(lines) == 1
        assert sorted(preset.parent.rglob("*")) == before, "something was written"
        return lines[0]

    return refused


@pytest.fixture
def changed(pipelines, tmp_path):
    """Write a preset for the tiny SD3 with one keyword changed."""

    def changed(teachers=BASE, family="sd3", **keys):
        return write_preset(tmp_path / "run", keys.pop("model", pipelines[family]), teachers, **keys)

    return changed


@pytest.fixture
def ran(pipelines, two_teachers, launch, tmp_path):
    """Run a tiny preset with these keys and return its output folder."""

    def ran(teachers=None, family="z_image", name="run", **keys):
        teachers = two_teachers[family] if teachers is None else teachers
        return launch(write_preset(tmp_path / name, pipelines[family], teachers, **{**QUICK, **keys}))

    return ran


@pytest.fixture
def pictures(tmp_path):
    """Prompts of both routes with the picture that each describes, as prompt files with a column `target`."""
    (tmp_path / "pictures").mkdir()
    files = {}
    for place, (route, words) in enumerate((("one", "red cat"), ("two", "blue river"))):
        lines = ["prompt,target"]
        for number in range(2):
            level = np.linspace(0, 255, 24 * 20 * 3).reshape(20, 24, 3)
            pixels = (level if number else 255 - level) * (0.4 + 0.6 * place)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pictures" / f"{route}{number}.png")
            lines.append(f"{words} {number},pictures/{route}{number}.png")
        path = tmp_path / f"{route}.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        files[route] = str(path)
    return files


@pytest.fixture(scope="session")
def strong(pipelines, tmp_path_factory):
    """Two teachers that are far from the base."""
    folder, model = tmp_path_factory.mktemp("strong"), pipelines["sd3"]
    files = {
        name: write_random_lora(folder / f"{name}.safetensors", model, seed, size=0.4, rank=2)
        for name, seed in (("one", 1), ("two", 2))
    }
    return {name: {"lora": str(file)} for name, file in files.items()}


@pytest.fixture
def taught(ran, strong, pictures):
    """Run a method on the data with pictures."""

    def taught(method, name="run", teachers=None, **keys):
        return ran(teachers or strong, family="sd3", name=name, method=method, prompts=pictures, **{**SHORT, **keys})

    return taught


@pytest.fixture(scope="session")
def single_attention(tmp_path_factory):
    """A tiny SD3 without a second attention, as SD3-medium and SD3.5-large are."""
    from tests.tiny.families.sd3 import sd3_pipeline, sd3_transformer

    pipeline = sd3_pipeline()
    pipeline.register_modules(transformer=sd3_transformer(dual=()))
    folder = tmp_path_factory.mktemp("single") / "sd3"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def small_sources(monkeypatch):
    """Source images of a thousand pixels, and all that a tiny Qwen-Image-Edit needs."""
    from tests.tiny.edit_world import make_sources_small  # here: it takes a second to import

    make_sources_small(monkeypatch)


@pytest.fixture(scope="session")
def editors(tmp_path_factory):
    """Family name -> the folder of its tiny pipeline, of three families that edit. Nobody writes there."""
    from tests.tiny.pipelines import save_listening

    folder = tmp_path_factory.mktemp("editors")
    return {name: save_listening(name, folder / name) for name in ("flux_kontext", "qwen_image_edit", "z_image_omni")}


@pytest.fixture
def edit_preset(editors, pipelines, tmp_path):
    """Write a preset for this family, by default one edit route."""
    from tests.tiny.edit_world import write_edits

    def edit_preset(name="flux_kontext", teachers=BASE, folder="run", **keys):
        if "prompts" not in keys and "dataset_config" not in keys:
            keys["prompts"] = {"base": write_edits(tmp_path, "base", "red cat")}
        return write_preset(tmp_path / folder, {**pipelines, **editors}[name], teachers, **{**QUICK, **keys})

    return edit_preset
