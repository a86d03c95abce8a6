"""The quickstart's preset: what it names is there, or is made by the command that its error names."""

import shutil
from pathlib import Path

import pytest
from accelerate import Accelerator

from danceopd_ext.config import load_preset
from danceopd_ext.demo import LORAS, PIPELINE, PROMPTS
from danceopd_ext.demo.omni_draw import PICTURE_SIZE
from danceopd_ext.demo.quickstart_data import FOLDER, PER_KIND, main
from danceopd_ext.demo.route_files import route_file
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.native.prepare import prepare
from danceopd_ext.toolkits.run import main as train
from tests.toolkits.runs import forget_accelerate

ROOT = Path(__file__).resolve().parents[2]
PRESET = ROOT / "presets" / "quickstart.toml"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder like a fresh clone: the preset and the demo, and no outputs."""
    shutil.copy(PRESET, tmp_path / "quickstart.toml")
    shutil.copytree(PIPELINE.parent, tmp_path / "danceopd_ext" / "demo", ignore=shutil.ignore_patterns("*.py*"))
    monkeypatch.chdir(tmp_path)
    forget_accelerate()
    return tmp_path


def test_it_names_the_embedded_demo():
    preset = load_preset(PRESET)
    assert ROOT / preset.model.pretrained_model_name_or_path == PIPELINE
    assert preset.dataset.resolution == PICTURE_SIZE
    assert {name: ROOT / one.lora for name, one in preset.danceopd.teachers.items() if one.lora} == LORAS
    files = {name: ROOT / file for name, [file] in preset.danceopd.prompts.items()}
    assert files == PROMPTS | {"edit": ROOT / route_file(FOLDER, "edit", PER_KIND, targets=False)}
    assert list(preset.danceopd.routes) == ["base", *LORAS]


def test_the_script_starts_as_many_samples_a_step_as_the_preset():
    text = (ROOT / "scripts" / "quickstart.py").read_text(encoding="utf-8")
    assert f"BATCH = {load_preset(PRESET).training.train_batch_size}\n" in text


def test_without_its_data_the_error_names_the_command_that_makes_it(elsewhere):
    with pytest.raises(UserError) as error:
        train(["--config", "quickstart.toml"])
    assert "prompt file not found" in str(error.value)
    assert "python -m danceopd_ext.demo.quickstart_data" in str(error.value)
    assert not (elsewhere / "outputs").exists()


def test_with_its_data_it_passes_every_check(elsewhere):
    main()
    plan = prepare(load_preset("quickstart.toml"), Accelerator(cpu=True))
    assert plan.family.name == "z_image_omni"
    assert set(plan.teachers) == set(plan.data.routes) == {"base", *LORAS}
    edits = plan.data.routes["edit"].items
    assert len(edits) == 6 * PER_KIND
    assert all(len(item.source_images) == 1 and item.picture is None for item in edits)
