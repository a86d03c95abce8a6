"""The preset of a run is saved as it was used, beside the LoRA and inside of it."""

from __future__ import annotations

import errno
from argparse import Namespace
from pathlib import Path

import pytest
from safetensors import safe_open

from danceopd_ext.config.as_used import name_of, native_preset
from danceopd_ext.config.hosted_preset import HostedPreset
from danceopd_ext.config.load import load_preset
from danceopd_ext.toolkits import preset_record
from danceopd_ext.toolkits.hosted.run_trainer import run_alone
from danceopd_ext.toolkits.preset_record import ENTRY, HEAD, record_path, write_record
from tests.tiny.presets import write_preset
from tests.toolkits.runs import log_of, says


@pytest.fixture
def preset(pipelines, two_teachers, tmp_path):
    """Write a preset of so many steps."""

    def preset(steps: int, teachers: dict | None = None) -> Path:
        teachers = teachers or two_teachers["sd3"]
        return write_preset(tmp_path / "run", pipelines["sd3"], teachers, max_train_steps=steps, rollout_steps=2)

    return preset


def entry_of(path: Path) -> str:
    with safe_open(path, "pt") as file:
        return file.metadata()[ENTRY]


def test_a_run_saves_its_preset(preset, launch, two_teachers):
    """With the command line's values, in the file beside it and, without folders, in the LoRA's metadata."""
    output = launch(preset(2), "--learning_rate", "3e-4")
    saved = load_preset(record_path(output, "fused"))
    assert saved.optimizer.learning_rate == 3e-4
    assert saved.optimizer.optimizer_type, "the default of this machine"
    assert saved.training.max_train_steps == 2
    assert entry_of(output / "fused.safetensors") == native_preset(saved, name_of)
    assert str(output.parent) not in entry_of(output / "fused.safetensors")


def test_the_saved_preset_trains_the_same(preset, launch, tmp_path):
    output = launch(preset(2))
    again = tmp_path / "again" / "preset.toml"
    again.parent.mkdir()
    text = record_path(output, "fused").read_text(encoding="utf-8")
    again.write_text(text.replace(str(output), str(again.parent / "output")), encoding="utf-8")
    repeated = launch(again)
    assert [entry["loss"] for entry in log_of(repeated)] == [entry["loss"] for entry in log_of(output)]


def test_a_merge_saves_its_preset(preset, launch, two_teachers):
    output = launch(preset(2, teachers=two_teachers["sd3"]), "--method", "merge_sum")
    assert load_preset(record_path(output, "fused")).danceopd.method == "merge_sum"
    assert 'method = "merge_sum"' in entry_of(output / "fused.safetensors")


def test_a_preset_of_the_users_is_not_replaced(preset, launch, refused):
    """A record of an earlier run is."""
    path = preset(1)
    record = record_path(path.parent / "output", "fused")
    record.parent.mkdir()
    record.write_text("[model]\n", encoding="utf-8")
    says(refused(path), str(record), "was not written by a run", "another output_name")
    assert record.read_text(encoding="utf-8") == "[model]\n"
    record.write_text(f"{HEAD}\n", encoding="utf-8")
    launch(path)
    assert len(record.read_text(encoding="utf-8")) > 500


def test_a_disk_that_refuses_it_costs_no_training(tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(preset_record, "whole_file", full)
    said = []
    write_record(tmp_path, "fused", "", said.append)
    assert len(said) == 1 and str(record_path(tmp_path, "fused")) in said[0] and "no space" in said[0]


def test_a_toolkits_run_saves_its_preset(tmp_path, two_teachers, preset):
    options = load_preset(preset(1)).danceopd
    hosted = HostedPreset(
        path=tmp_path / "preset.toml",
        toolkit="sd-scripts",
        danceopd=options,
        model_type="sd3",
        values={"output_name": "fused", "wandb_api_key": "secret"},
        flags={},
    )
    args = Namespace(output_dir=str(tmp_path / "out"), output_name="fused", resume=None)
    seen = []

    class Trainer:
        session = None

        def train(self, args):
            seen.append(self.preset_as_used)
            assert not record_path(tmp_path / "out", "fused").exists(), "data may still be refused"
            self.save_preset()

    run_alone(Trainer(), args, hosted, [])
    text = record_path(tmp_path / "out", "fused").read_text(encoding="utf-8")
    assert text.startswith(HEAD) and 'output_name = "fused"' in text and "secret" not in text
    assert 'output_name = "fused"' in seen[0] and str(tmp_path) not in seen[0]
