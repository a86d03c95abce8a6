"""Optimizers and schedules under their sd-scripts names."""

from __future__ import annotations

import sys

import pytest
import torch

from danceopd_ext.config.schema import OptimizerSection
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.native.optimizers import learning_rate, make_optimizer, make_schedule, set_learning_rate
from tests.tiny.presets import write_preset
from tests.toolkits.runs import log_of, same_tensors

CPU = torch.device("cpu")


def made(**keys):
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    section = OptimizerSection(**keys)
    return section, parameter, make_optimizer(section, [parameter], CPU)


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("AdamW", "AdamW"),
        ("adamw", "AdamW"),
        ("SGDNesterov", "SGD"),
        ("Adafactor", "Adafactor"),
        ("Lion", "Lion"),
        ("Prodigy", "Prodigy"),
        ("AdamWScheduleFree", "AdamWScheduleFree"),
        ("torch.optim.RMSprop", "RMSprop"),
    ],
)
def test_names(name, cls):
    _, _, optimizer = made(optimizer_type=name, learning_rate=0.1)
    group = optimizer.param_groups[0]
    assert type(optimizer).__name__ == cls
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.0)


def test_what_sd_scripts_presets():
    assert made(optimizer_type="SGDNesterov")[2].param_groups[0]["nesterov"] is True
    adafactor = made(optimizer_type="Adafactor")[2].param_groups[0]
    assert (adafactor["relative_step"], adafactor["scale_parameter"]) == (False, False)


def test_arguments():
    arguments = ["betas=0.8, 0.95", "weight_decay=0.01", "foreach=False"]
    group = made(optimizer_type="AdamW", optimizer_args=arguments)[2].param_groups[0]
    assert (group["betas"], group["weight_decay"], group["foreach"]) == ((0.8, 0.95), 0.01, False)


@pytest.mark.parametrize(
    ("name", "argument", "parts"),
    [
        ("AdamW", "weight_decay=0,5", ["weight_decay=0,5", "comma", "weight_decay=0.5"]),
        ("AdamW", "weight_decay='0.5'", ["weight_decay", "takes a number"]),
        ("AdamW", "eps=True", ["eps", "takes a number"]),
        ("AdamW", "amsgrad='no'", ["amsgrad", "takes true or false"]),
        ("AdamW", "amsgrad=2", ["amsgrad", "takes true or false"]),
        ("AdamW", "betas=0.9,0.99,0.999", ["betas", "takes 2 numbers, such as betas=0.9,0.999"]),
        ("Prodigy", "decouple=1,0", ["decouple", "takes true or false"]),
        ("AdamW", "lr=1e-3", ["learning_rate = 0.001"]),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(name, argument, parts):
    with pytest.raises(UserError) as error:
        made(optimizer_type=name, optimizer_args=[argument])
    assert str(error.value).startswith("optimizer_args: ")
    for part in parts:
        assert part in str(error.value)


def test_false_in_small_letters_is_false():
    arguments = ["scale_parameter=false", "relative_step=false", "warmup_init=false"]
    group = made(optimizer_type="Adafactor", learning_rate=1e-4, optimizer_args=arguments)[2].param_groups[0]
    assert (group["lr"], group["relative_step"], group["warmup_init"]) == (1e-4, False, False)


def test_an_optimizer_without_weight_decay_gets_none():
    assert "weight_decay" not in made(optimizer_type="torch.optim.Rprop")[2].param_groups[0]


def rates(steps=10, **keys) -> list[float]:
    section, parameter, optimizer = made(optimizer_type="SGDNesterov", learning_rate=1.0, **keys)
    schedule = make_schedule(section, optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {0: 1.0, 9: 1.0}),
        ({"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 4}, {0: 0.0, 2: 0.5, 4: 1.0, 9: 1.0}),
        ({"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 0.4}, {0: 0.0, 2: 0.5, 4: 1.0, 9: 1.0}),
        ({"lr_scheduler": "linear"}, {0: 1.0, 5: 0.5}),
        ({"lr_scheduler": "cosine"}, {0: 1.0, 5: 0.5}),
        ({"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 2}, {0: 1.0, 5: 1.0}),
        ({"lr_scheduler": "polynomial", "lr_scheduler_power": 2.0}, {0: 1.0, 5: 0.25}),
        ({"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_args": ["min_lr_rate=0.5"]}, {0: 1.0, 5: 0.75}),
    ],
)
def test_schedules(keys, expected):
    found = rates(**keys)
    assert {place: found[place] for place in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup", "linear", "cosine_with_min_lr"])
def test_an_argument_that_the_schedule_does_not_take(schedule):
    with pytest.raises(UserError, match=rf'lr_scheduler_args: lr_scheduler = "{schedule}" takes .*, not power'):
        rates(
            lr_scheduler=schedule, lr_scheduler_args=["min_lr_rate=0.1", "power=2"][schedule != "cosine_with_min_lr" :]
        )


def test_a_loaded_schedule_takes_another_learning_rate():
    section, _, optimizer = made(optimizer_type="AdamW", learning_rate=1.0, lr_scheduler="linear")
    schedule = make_schedule(section, optimizer, 10)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    set_learning_rate(schedule, 0.1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.04)


def test_unknown_names_have_a_remedy():
    with pytest.raises(UserError, match='Did you mean "Prodigy"'):
        made(optimizer_type="Prodgy")
    with pytest.raises(UserError, match="pip install"):
        made(optimizer_type=".AdamW")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("prodigyplus.ProdigyPlusScheduleFree", "`pip install prodigy-plus-schedule-free`"),
        ("pytorch_optimizer.CAME", "`pip install pytorch-optimizer`"),
        ("DAdaptAdam", "`pip install dadaptation`"),
        ("no_such_module.Adam", "find out which package has this module"),
    ],
)
def test_a_package_is_named_only_if_it_is_known(monkeypatch, name, remedy):
    for module in ("prodigyplus", "pytorch_optimizer", "dadaptation"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as error:
        made(optimizer_type=name)
    assert remedy in str(error.value) and "pip install no_such_module" not in str(error.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"optimizer_type": "SGDNesterov", "learning_rate": 0.1},
        {"optimizer_type": "Adafactor"},
        {"optimizer_type": "Adafactor", "optimizer_args": ["relative_step=True", "warmup_init=True"]},
        {"optimizer_type": "Lion", "learning_rate": 1e-3},
        {"optimizer_type": "Prodigy", "learning_rate": 1.0},
        {"optimizer_type": "AdamWScheduleFree"},
        {"optimizer_type": "torch.optim.RMSprop"},
        {"optimizer_type": ""},
    ],
    ids=lambda keys: "-".join([keys["optimizer_type"] or "default", *keys.get("optimizer_args", [])[:1]]),
)
def test_every_optimizer_trains_and_resumes(pipelines, two_teachers, launch, tmp_path, keys):
    """Saved after two steps and gone on with, it ends where it would have ended."""
    keys = {"max_train_steps": 4, "save_every_n_steps": 2, "save_state": True, "rollout_steps": 2, **keys}
    output = launch(write_preset(tmp_path, pipelines["z_image"], two_teachers["z_image"], **keys))
    assert not same_tensors(output / "fused-step00000002.safetensors", output / "fused.safetensors")
    (output / "fused.safetensors").rename(output / "first.safetensors")
    launch(tmp_path / "preset.toml", "--resume", output / "fused-step00000002-state")
    assert same_tensors(output / "first.safetensors", output / "fused.safetensors")
    assert len(log_of(output)) == 4


def test_logged_rate_of_prodigy_is_the_one_that_works():
    _, _, optimizer = made(optimizer_type="Prodigy", learning_rate=1.0, optimizer_args=["d0=1e-3"])
    assert learning_rate(optimizer) == pytest.approx(1e-3)
