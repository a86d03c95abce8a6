"""musubi's training loop in two processes, and in one that was interrupted and resumed."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.integration.musubi.runs import apart, here, write_preset
from tests.integration.musubi.worlds import World

SECTION = "[danceopd.teachers.style]\nlora = {style!r}\n[danceopd.teachers.base]\n[danceopd.datasets]\nstyle = 1\nbase = 2\n[danceopd.prompts]\nstyle = {prompts!r}\n"  # noqa: E501


def preset(world: World, path, **values):
    danceopd = SECTION.format(style=str(world.style), prompts=str(world.prompts))
    given = {"dit": world.dit, "dataset_config": world.data, "text_encoder": world.text_encoder, **values}
    return write_preset(path, danceopd, **given)


def test_two_processes_draw_their_own_noise_and_keep_one_student(world, tmp_path):
    watch = tmp_path / "watch"
    watch.mkdir()
    path = preset(world, tmp_path / "p.toml", max_train_steps=4, gradient_accumulation_steps=2, network_dropout=0.1)
    result = apart("tiny_z_image", path, processes=2, SPY="noise_and_weights", WATCH=str(watch))
    assert result.returncode == 0, result.stderr[-3000:]
    ranks = [json.loads((watch / f"{rank}.json").read_text()) for rank in (0, 1)]
    drawn = [(step, index, value) for rank in ranks for step, indices, value in rank["noise"] for index in indices]
    steps = [{index for step, index, _ in drawn if step == wanted} for wanted in range(3)]
    assert steps[0] == {0, 1, 2, 3}  # two processes, two micro-batches
    assert len({value for _, _, value in drawn}) == len(drawn)
    assert len(ranks[0]["routes"]) == len(ranks[1]["routes"]) >= 7  # an epoch's last step may have one micro-batch
    assert {*ranks[0]["routes"], *ranks[1]["routes"]} == {0, 1}
    for step in range(1, len(ranks[0]["routes"]) + 1):
        one, other = (load_file(watch / f"{rank}-{step}.safetensors") for rank in (0, 1))
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items()), step
    first, last = (load_file(watch / f"0-{step}.safetensors") for step in (1, len(ranks[0]["routes"])))
    assert any(not torch.equal(tensor, last[name]) for name, tensor in first.items())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(world, tmp_path, workers):
    """Same data, same noise, same dropout, same names: the last file is equal to the bit."""
    values = {
        "max_train_steps": 9, "save_every_n_steps": 2, "save_state": True, "gradient_accumulation_steps": 2,
        "network_dropout": 0.2, "lr_scheduler": "cosine", "max_data_loader_n_workers": workers,
        "save_last_n_steps": 4,
    }  # fmt: skip
    whole = here(preset(world, tmp_path / "whole" / "p.toml", **values))
    state = tmp_path / "whole" / "out" / "fused-step00000006-state"
    resumed = here(preset(world, tmp_path / "resumed" / "p.toml", resume=state, **values))
    one, other = load_file(whole.saved), load_file(resumed.saved)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    did = [seen for seen in resumed.seen if seen["metrics"]]
    assert [seen["loss"] for seen in did] == [seen["loss"] for seen in whole.seen[-len(did) :]]
    assert resumed.progress.step == whole.progress.step == 9
    names = {path.name for path in (tmp_path / "resumed" / "out").glob("*.safetensors")}
    assert names == {"fused-step00000008.safetensors", "fused.safetensors"}
    with safe_open(resumed.saved, "pt") as file:
        assert file.metadata()["ss_steps"] == "9"


def test_a_resumed_run_logs_only_what_it_does(world, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values = {"max_train_steps": 2, "save_state": True, "logging_dir": tmp_path / "logs"}
    here(preset(world, tmp_path / "one" / "p.toml", **values))
    values |= {"max_train_steps": 3, "logging_dir": tmp_path / "more", "resume": tmp_path / "one/out/fused-state"}
    here(preset(world, tmp_path / "two" / "p.toml", **values))
    (run,) = {path.parent for path in (tmp_path / "more").rglob("events.out*")}
    events = EventAccumulator(str(run))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/current")] == [3]
