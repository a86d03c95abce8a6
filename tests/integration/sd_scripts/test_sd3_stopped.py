"""A run in sd-scripts that is ended by Ctrl-C or by a full memory, and what is left of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.integration.endings import check_out_of_memory, check_saved_elsewhere, check_stopped
from tests.integration.sd_scripts.runs import trained
from tests.integration.sd_scripts.world import world  # noqa: F401 - a fixture

TRAINING = {"max_train_steps": 6, "gradient_accumulation_steps": 2, "max_data_loader_n_workers": 2}
SAVING = {"save_every_n_steps": 100, "save_every_n_epochs": 1, "save_state": True}


def apart(preset, probe: str, *flags: str) -> subprocess.CompletedProcess:
    """Run in a process group of its own, so that the probe can send signals to all of the run and to nobody else."""
    words = [sys.executable, "-m", "tests.integration.sd_scripts.run_preset", f"tiny_sd3,{probe}", str(preset), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        words, capture_output=True, text=True, timeout=300, start_new_session=True, env=environment
    )  # fmt: skip


def log_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "out" / "fused.log.jsonl").read_text().splitlines()]


def test_ctrl_c_saves_what_was_learnt_and_the_run_goes_on_as_if_nothing_had_been(world, tmp_path):  # noqa: F811
    whole, stopped = (
        world.preset(tmp_path / name, "base", "ink", training=TRAINING, saving=SAVING) for name in ("whole", "stopped")
    )
    last = load_file(trained(whole).lora)
    result = apart(stopped, "ctrl_c")
    state = check_stopped(result, tmp_path / "stopped" / "out", ["base", "ink"])
    with safe_open(f"{state}".replace("-state", ".safetensors"), "pt") as file:
        assert file.metadata()["ss_steps"] == "3"
        assert any(file.get_tensor(key).any() for key in sorted(file.keys()) if "lora_up" in key)

    done = trained(stopped, "--resume", str(state))
    again = load_file(done.lora)
    assert all(torch.equal(tensor, again[name]) for name, tensor in last.items())
    assert [entry["step"] for entry in log_of(tmp_path / "stopped")] == [1, 2, 3, 4, 5, 6]
    assert all(entry["grad_norm"] > 0 and entry["learning_rate"] == 2e-3 for entry in log_of(tmp_path / "stopped"))
    assert "for diffusers: python -m danceopd_ext convert" in done.log
    assert "--to diffusers" in done.log


@pytest.mark.parametrize("every", [2, 100])
def test_out_of_memory_is_one_message(world, tmp_path, every):  # noqa: F811
    saving = {**SAVING, "save_every_n_steps": every}
    result = apart(world.preset(tmp_path, "base", "ink", training=TRAINING, saving=saving), "full_memory")
    remedies = ("gradient_checkpointing = true", "fp8_base = true", "blocks_to_swap", "network_dim below 8")
    check_out_of_memory(result, tmp_path / "out", remedies, every)


def test_a_full_disk_ends_no_training(world, tmp_path, monkeypatch):  # noqa: F811
    free = tmp_path / "free"
    free.mkdir()
    monkeypatch.setenv("FREE", str(free))
    saving = {**SAVING, "save_every_n_steps": 2}
    result = apart(world.preset(tmp_path, "base", "ink", training=TRAINING, saving=saving), "full_disk")
    check_saved_elsewhere(result, tmp_path / "out", free)
