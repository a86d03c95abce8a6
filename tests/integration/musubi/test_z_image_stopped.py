"""musubi's training loop ended by Ctrl-C or by a full memory, and what is left of it."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.integration.endings import check_out_of_memory, check_saved_elsewhere, check_stopped
from tests.integration.musubi.runs import apart, here
from tests.integration.musubi.test_z_image_processes import preset

VALUES = {
    "max_train_steps": 6, "gradient_accumulation_steps": 2, "network_dropout": 0.2, "lr_scheduler": "cosine",
    "max_data_loader_n_workers": 2, "save_every_n_steps": 100, "save_every_n_epochs": 1, "save_state": True,
}  # fmt: skip


def log_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "out" / "fused.log.jsonl").read_text().splitlines()]


def test_ctrl_c_saves_what_was_learnt_and_the_run_goes_on_as_if_nothing_had_been(world, tmp_path):
    whole = here(preset(world, tmp_path / "whole" / "p.toml", **VALUES))
    path = preset(world, tmp_path / "stopped" / "p.toml", **VALUES)
    result = apart("tiny_z_image", path, SPY="ctrl_c_in_step_3")
    state = check_stopped(result, tmp_path / "stopped" / "out", ["base", "style"])
    with safe_open(f"{state}".replace("-state", ".safetensors"), "pt") as file:
        assert file.metadata()["ss_steps"] == "3"
        assert any(file.get_tensor(key).any() for key in sorted(file.keys()) if "lora_up" in key)
    assert [entry["step"] for entry in log_of(tmp_path / "stopped")] == [1, 2, 3]

    resumed = here(preset(world, tmp_path / "stopped" / "p.toml", resume=state, **VALUES))
    one, other = load_file(whole.saved), load_file(resumed.saved)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    timing = ("seconds", "stage_seconds", "peak_memory_mb")
    logs = [
        [{k: v for k, v in entry.items() if k not in timing} for entry in log_of(tmp_path / name)]
        for name in ("whole", "stopped")
    ]
    assert logs[0] == logs[1]
    assert [entry["step"] for entry in logs[0]] == [1, 2, 3, 4, 5, 6]
    assert all(entry["grad_norm"] > 0 and entry["learning_rate"] >= 0 for entry in logs[0])


def test_two_processes_stop_together(world, tmp_path):
    """The launcher has got the signal as well, and passes it on."""
    path = preset(world, tmp_path / "p.toml", **{**VALUES, "max_data_loader_n_workers": 0})
    result = apart("tiny_z_image", path, processes=2, SPY="ctrl_c_in_step_3")
    assert result.stdout.count("stopped after step ") == 1, result.stderr[-3000:]
    step = int(re.search(r"stopped after step (\d+)", result.stdout)[1])
    assert 3 <= step < 6
    assert load_file(tmp_path / "out" / f"fused-step{step:08d}.safetensors")
    assert (tmp_path / "out" / f"fused-step{step:08d}-state").is_dir()
    log = log_of(tmp_path)
    assert [entry["step"] for entry in log] == list(range(1, step + 1))
    assert log[0]["samples"] == 4  # of both processes


@pytest.mark.parametrize("every", [2, 100])
def test_out_of_memory_is_one_message(world, tmp_path, every):
    path = preset(world, tmp_path / "p.toml", **{**VALUES, "save_every_n_steps": every})
    result = apart("tiny_z_image", path, SPY="full_in_step_3")
    remedies = ("gradient_checkpointing = true", "fp8_base = true", "blocks_to_swap", "network_dim below 4")
    check_out_of_memory(result, tmp_path / "out", remedies, every)


def test_a_full_disk_ends_no_training(world, tmp_path, monkeypatch):
    free = tmp_path / "free"
    free.mkdir()
    monkeypatch.setenv("FREE", str(free))
    path = preset(world, tmp_path / "p.toml", **{**VALUES, "save_every_n_steps": 2})
    result = apart("tiny_z_image", path, SPY="full_disk")
    check_saved_elsewhere(result, tmp_path / "out", free)
