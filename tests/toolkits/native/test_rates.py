"""The learning rate and schedule that are really used are told, and what of the preset they leave out."""

from __future__ import annotations

import pytest
import torch

from danceopd_ext.config.schema import OptimizerSection
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.native.optimizers import make_optimizer, make_schedule
from danceopd_ext.toolkits.native.rates import check_rate, rate_notes, used
from tests.toolkits.runs import log_of


def section(optimizer_type="AdamW", **keys) -> OptimizerSection:
    return OptimizerSection(optimizer_type=optimizer_type, **keys)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("AdamW", 2e-4),
        ("", 2e-4),
        ("Prodigy", 1.0),
        ("prodigy", 1.0),
        ("prodigyplus.ProdigyPlusScheduleFree", 1.0),
        ("DAdaptAdam", 1.0),
        ("dadaptation.DAdaptLion", 1.0),
        ("my_prodigy_tools.AdamW", 2e-4),
    ],
)
def test_the_default_rate_is_the_optimizers(name, rate):
    assert section(name).learning_rate == rate
    assert section(name, learning_rate=0.5).learning_rate == 0.5


def test_prodigy_learns_at_its_default_rate_and_not_at_adams():
    """What the default and the refusal are for."""
    torch.manual_seed(0)
    target, losses = torch.randn(50), {}
    for rate in (None, 2e-4):
        parameter = torch.nn.Parameter(torch.zeros(50))
        optimizer = make_optimizer(section("Prodigy", learning_rate=rate), [parameter], torch.device("cpu"))
        for _ in range(100):
            optimizer.zero_grad()
            loss = ((parameter - target) ** 2).mean()
            loss.backward()
            optimizer.step()
        losses[rate] = loss.item() / (target**2).mean().item()
    assert losses[None] < 0.1 and losses[2e-4] > 0.99


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"lr_warmup_steps": 3}, ["lr_warmup_steps = 3", 'lr_scheduler = "constant_with_warmup"']),
        ({"lr_warmup_steps": 0.1}, ["lr_warmup_steps = 0.1", "constant_with_warmup"]),
        ({"optimizer_type": "Prodigy", "learning_rate": 1e-4}, ["learning_rate = 0.0001", "Remove learning_rate"]),
        ({"optimizer_type": "DAdaptAdam", "learning_rate": 5e-3}, ["learning_rate = 0.005", "DAdaptAdam"]),
    ],
)
def test_what_is_certainly_not_meant_is_refused(keys, parts):
    with pytest.raises(UserError) as error:
        check_rate(section(**keys))
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"lr_warmup_steps": 3, "lr_scheduler": "constant_with_warmup"},
        {"lr_warmup_steps": 3, "lr_scheduler": "cosine"},
        {"optimizer_type": "Prodigy", "learning_rate": 1e-4, "optimizer_args": ["d0=1"]},
        {"optimizer_type": "AdamW", "learning_rate": 1e-6},
        {"optimizer_type": "Adafactor", "optimizer_args": ["relative_step=true"], "lr_warmup_steps": 2},
    ],
)
def test_the_rest_is_not_refused(keys):
    check_rate(section(**keys))


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"optimizer_type": "Adafactor", "optimizer_args": ["relative_step=true"], "lr_scheduler": "cosine"},
         ["relative_step", "learning_rate, lr_scheduler and lr_warmup_steps are not used"]),
        ({"optimizer_type": "Adafactor", "optimizer_args": ["scale_parameter=True"]}, ["scale_parameter"]),
        ({"optimizer_type": "Prodigy", "learning_rate": 0.05}, ["learning_rate = 0.05", "far from 1"]),
        ({"optimizer_type": "Prodigy", "learning_rate": 20.0}, ["learning_rate = 20", "far from 1"]),
        ({"optimizer_type": "AdamWScheduleFree", "lr_scheduler": "cosine"}, ["AdamWScheduleFree", '"cosine"']),
        ({"lr_scheduler": "cosine", "lr_scheduler_num_cycles": 3}, ["lr_scheduler_num_cycles = 3", "no effect"]),
        ({"lr_scheduler": "linear", "lr_scheduler_power": 2.0}, ["lr_scheduler_power = 2", "polynomial"]),
        ({"lr_scheduler": "linear", "lr_warmup_steps": 100}, ["lr_warmup_steps = 100", "max_train_steps = 100"]),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_noted(keys, parts):
    (note,) = rate_notes(section(**keys), 100)
    for part in parts:
        assert part in note


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"optimizer_type": "Prodigy"},
        {"optimizer_type": "Adafactor", "optimizer_args": ["relative_step=false"], "lr_scheduler": "cosine"},
        {"optimizer_type": "AdamWScheduleFree"},
        {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3, "lr_warmup_steps": 99},
        {"lr_scheduler": "polynomial", "lr_scheduler_power": 2.0, "lr_warmup_steps": 0.5},
    ],
)
def test_nothing_is_noted_without_need(keys):
    assert rate_notes(section(**keys), 100) == []


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "AdamW at 0.0002, constant"),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 0.1}, "AdamW at 0.0002, cosine, 10 steps of warm-up"),
        ({"optimizer_type": "Prodigy"}, "Prodigy at 1 x the rate that it finds, constant"),
        ({"optimizer_type": "Adafactor", "optimizer_args": ["relative_step=True"], "lr_scheduler": "cosine"},
         "Adafactor with its own rate (relative_step)"),
    ],
)  # fmt: skip
def test_the_start_line(keys, words):
    assert used(section(**keys), 100) == words


@pytest.mark.parametrize("text", ["relative_step=True", "relative_step=true"])
def test_a_relative_rate_ignores_the_presets_schedule(text):
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    keys = section("Adafactor", optimizer_args=[text], lr_scheduler="cosine", lr_warmup_steps=5)
    optimizer = make_optimizer(keys, [parameter], torch.device("cpu"))
    assert type(make_schedule(keys, optimizer, 10)).__name__ == "AdafactorSchedule"


def test_a_run_tells_what_it_uses_and_leaves_out(changed, launch, capsys):
    """In its first lines."""
    keys = {"optimizer_type": "Adafactor", "optimizer_args": ["relative_step=true"], "lr_warmup_steps": 2}
    launch(changed(**keys, max_train_steps=1, rollout_steps=2, logging_dir="logs"), "--cache_latents")
    lines = capsys.readouterr().out.splitlines()
    before = lines[: next(i for i, line in enumerate(lines) if line.startswith("model "))]
    assert any("learning_rate, lr_scheduler and lr_warmup_steps are not used" in line for line in before)
    assert any(line.startswith("note: without effect here: --cache_latents") for line in before)
    assert any(line.startswith("note: logging_dir = logs has no effect") for line in before)
    assert any("Adafactor with its own rate (relative_step)" in line for line in lines)


def test_a_run_with_false_in_small_letters_learns_at_the_presets_rate(ran):
    output = ran(optimizer_type="Adafactor", optimizer_args=["relative_step=false"], learning_rate=1e-4)
    assert [entry["learning_rate"] for entry in log_of(output)] == pytest.approx([1e-4, 1e-4])
