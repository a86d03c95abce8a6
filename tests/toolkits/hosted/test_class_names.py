"""What a hosted preset names is checked before the toolkit imports, calls or unpickles it."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.preflight import check_lora_files, check_optimizer
from danceopd_ext.toolkits.hosted.resume import take_resume

PRESET = Path("p.toml")
GIFT = """
from pathlib import Path
Path(__file__).with_suffix(".ran").touch()
import torch
class Mine(torch.optim.SGD): ...
class Falling(torch.optim.lr_scheduler.ConstantLR): ...
"""


@pytest.fixture
def gift(tmp_path, monkeypatch):
    """A module in the working directory, which is on sys.path as a checkout is."""
    path = tmp_path / "gift.py"
    path.write_text(GIFT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    yield path
    sys.modules.pop("gift", None)


def of_the_toolkit(name: str, names: object) -> type:
    """As both toolkits find a class."""
    module, _, name = name.rpartition(".")
    return getattr(importlib.import_module(module) if module else names, name)


def make_optimizer(args, groups):
    return "name", "args", of_the_toolkit(args.optimizer_type, torch.optim)(groups)


def make_schedule(args, optimizer):
    return of_the_toolkit(args.lr_scheduler_type, torch.optim.lr_scheduler)(optimizer)


def check(optimizer_type="SGD", lr_scheduler_type="ConstantLR", local=False):
    args = Namespace(
        optimizer_type=optimizer_type, lr_scheduler_type=lr_scheduler_type, optimizer_args=None,
        lr_scheduler="constant", learning_rate=1e-3,
    )  # fmt: skip
    check_optimizer(args, PRESET, make_optimizer, make_schedule, local)


@pytest.mark.parametrize(("key", "name"), [("optimizer_type", "gift.Mine"), ("lr_scheduler_type", "gift.Falling")])
def test_a_class_beside_the_toolkit_needs_the_flag(gift, key, name):
    with pytest.raises(UserError) as error:
        check(**{key: name})
    assert str(error.value).startswith(f'p.toml: {key} = "{name}": gift ({gift}) does not belong to an installed')
    assert not gift.with_suffix(".ran").exists()
    check(**{key: name}, local=True)
    assert gift.with_suffix(".ran").exists()


@pytest.mark.parametrize(
    ("key", "name", "part"),
    [
        ("optimizer_type", "os.system", "os is part of Python"),
        ("optimizer_type", "transformers.pipeline", "not a class"),
        ("optimizer_type", "lr_scheduler", "not a class"),
        ("optimizer_type", "Optimizer", "the abstract class"),
        ("optimizer_type", "..x.y", "names separated by dots"),
        ("optimizer_type", "torch.optim.lr_scheduler.ConstantLR", "Only subclasses of torch.optim"),
        ("optimizer_type", "torch.nothing.Adam", "cannot be imported"),
        ("optimizer_type", "torch.optim.Nothing", "cannot be imported"),
        ("lr_scheduler_type", "subprocess.Popen", "subprocess is part of Python"),
        ("lr_scheduler_type", "torch.optim.SGD", "Only subclasses of torch.optim.lr_scheduler.LRScheduler"),
        ("lr_scheduler_type", "cast", "not a class"),
        ("lr_scheduler_type", "LRScheduler", "the abstract class"),
    ],
)
@pytest.mark.parametrize("local", [False, True])
def test_what_is_neither_optimizer_nor_schedule_is_not_called(key, name, part, local):
    with pytest.raises(UserError) as error:
        check(**{key: name}, local=local)
    assert str(error.value).startswith(f'p.toml: {key} = "{name}"')
    if not (local and "part of Python" in part):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "name", ["AdamW", "torch.optim.AdamW", "torch.optim.SGD", "transformers.optimization.Adafactor"]
)
def test_optimizers_of_installed_packages_are_left_to_the_toolkit(name):
    check(optimizer_type=name)


@pytest.mark.parametrize("name", ["ConstantLR", "torch.optim.lr_scheduler.ConstantLR"])
def test_schedules_of_torch_are_left_to_the_toolkit(name):
    check(lr_scheduler_type=name)


@pytest.mark.parametrize("name", ["network_weights", "base_weights"])
@pytest.mark.parametrize("place", ["x.pt", "x.bin", "x.ckpt", "x.pth", "x", "x.safetensors.bin", "x.SAFETENSORS"])
def test_a_lora_that_the_toolkit_would_unpickle_is_refused(name, place):
    given = ["a.safetensors", place] if name == "base_weights" else place
    with pytest.raises(UserError, match="can run code"):
        check_lora_files(Namespace(**{name: given}), PRESET)
    check_lora_files(Namespace(network_weights="x.safetensors", base_weights=["a.b/c.safetensors"]), PRESET)
    check_lora_files(Namespace(network_weights=None, base_weights=None), PRESET)


def resumed(folder, **more) -> Namespace:
    given = dict.fromkeys(("resume_from_huggingface", "initial_epoch", "initial_step", "skip_until_initial_step"))
    return Namespace(**given | {"resume": str(folder), "max_train_steps": 5, "max_train_epochs": None} | more)


def test_a_state_is_checked_before_accelerate_unpickles_it(tmp_path):
    """accelerate opens what is registered with it as any pickle."""
    with pytest.raises(UserError, match="resume_from_huggingface"):
        take_resume(resumed("owner/name", resume_from_huggingface=True))
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (marker,))

    torch.save({"step": 1, "loss": 0.0, "more": Bomb()}, tmp_path / "custom_checkpoint_0.pkl")
    with pytest.raises(UserError, match="damaged"):
        take_resume(resumed(tmp_path))
    assert not marker.exists()
