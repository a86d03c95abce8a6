"""A state whose digests are right and whose content is not ours: one message, before anything of it is used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from danceopd_ext.config.schema import OptimizerSection
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.native.optimizers import make_optimizer, make_schedule
from danceopd_ext.toolkits.native.resuming import read_state, student_sizes
from danceopd_ext.toolkits.native.state import open_state, save_state

CPU = torch.device("cpu")
SIZES = student_sizes({"a": (6, 4), "b": (5, 4)}, ["a", "b"], 2)
STEPS = 10


def maker(name="AdamW"):
    section = OptimizerSection(optimizer_type=name, learning_rate=1e-3, lr_scheduler="cosine")

    def make(weights):
        optimizer = make_optimizer(section, weights, CPU)
        return optimizer, make_schedule(section, optimizer, STEPS)

    return make


def trained(folder: Path, name="AdamW", steps=3):
    """Write the state of a few updates of small weights; returns (the weights, optimizer, schedule) after them."""
    weights = [torch.nn.Parameter(torch.randn(size)) for size in SIZES.values()]
    optimizer, schedule = maker(name)(weights)
    for _ in range(steps):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
        schedule.step()
    states = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "scaler": {}, "forwards": 7}
    save_state(folder, steps, {"seed": 1}, dict(zip(SIZES, weights, strict=True)), states, {"wandb": "x"})
    return weights, optimizer, schedule


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "fused-state"
    torch.manual_seed(0)
    trained(folder)
    return folder


@pytest.fixture
def state(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "fused-state"))


def signed(state: Path) -> None:
    """Make the digests those of the files, as somebody can who wants to."""
    facts = json.loads((state / "state.json").read_text(encoding="utf-8"))
    facts["sha256"] = {name: hashlib.sha256((state / name).read_bytes()).hexdigest() for name in facts["sha256"]}
    (state / "state.json").write_text(json.dumps(facts), encoding="utf-8")


def read(state: Path):
    return read_state(open_state(state, {"seed": 1}, STEPS), SIZES, maker(), CPU)


def refused(state: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(state)
    message = str(caught.value)
    assert "fused-state" in message and "(resume)" in message and message.isprintable()
    return message


@pytest.mark.parametrize("name", ["AdamW", "SGDNesterov", "Adafactor", "torch.optim.Adam", "torch.optim.RMSprop"])
@pytest.mark.parametrize("steps", [1, 3])
def test_every_optimizer_goes_on_from_its_own_state(name, steps, tmp_path):
    weights, optimizer, schedule = trained(tmp_path / "s", name, steps)
    state = read_state(open_state(tmp_path / "s", {"seed": 1}, STEPS), SIZES, maker(name), CPU)
    again = [torch.nn.Parameter(tensor) for tensor in state.student.values()]
    other, plan = maker(name)(again)
    other.load_state_dict(state.optimizer)
    plan.load_state_dict(state.schedule)
    for _ in range(2):
        for one, two in zip(weights, again, strict=True):
            one.grad, two.grad = torch.full_like(one, 0.1), torch.full_like(two, 0.1)
        for part in (optimizer, schedule, other, plan):
            part.step()
    assert all(one.equal(two) for one, two in zip(weights, again, strict=True)) and state.forwards == 7


def test_a_weight_that_never_had_a_gradient_has_no_entry(state):
    content = torch.load(state / "optimizer.pt", weights_only=True)
    del content["optimizer"]["state"][2]
    torch.save(content, state / "optimizer.pt")
    signed(state)
    assert set(read(state).optimizer["state"]) == {0, 1, 3}


# --- state.json


FACTS = {
    "a list": [],
    "a number": 5,
    "nothing": None,
    "step is text": {"step": "3"},
    "step is a half": {"step": 2.5},
    "step is true": {"step": True},
    "step is negative": {"step": -1},
    "step is huge": {"step": 10**15},
    "step has 5,000 digits": '{"step": ' + "9" * 5000 + "}",
    "nested": '{"step": ' * 5000,
    "identity is a list": {"identity": []},
    "trackers is a list": {"trackers": ["wandb"]},
    "trackers of numbers": {"trackers": {"wandb": 5}},
    "sha256 is a list": {"sha256": ["student.safetensors"]},
    "sha256 of other files": {"sha256": {"../../x": "0"}},
    "sha256 of one file": {"sha256": {"student.safetensors": "0"}},
    "version is a list": {"version": [2]},
}


@pytest.mark.parametrize("change", FACTS.values(), ids=FACTS)
def test_facts_of_other_kinds(state, change):
    facts = json.loads((state / "state.json").read_text(encoding="utf-8"))
    text = change if isinstance(change, str) else json.dumps(facts | change if isinstance(change, dict) else change)
    (state / "state.json").write_text(text, encoding="utf-8")
    refused(state)


@pytest.mark.parametrize("value", [5, None, [1], {"a": 1}, "LoRA x"])
def test_an_identity_of_other_kinds(state, value):
    facts = json.loads((state / "state.json").read_text(encoding="utf-8"))
    (state / "state.json").write_text(json.dumps(facts | {"identity": {"teachers": value}}), encoding="utf-8")
    with pytest.raises(UserError, match="belongs to another run"):
        open_state(state, {"teachers": {"style": "LoRA abc, guidance 1"}}, STEPS)


# --- student.safetensors


def reshaped(**changes):
    return lambda tensors: tensors | {key.replace("_", "."): value for key, value in changes.items()}


STUDENTS = {
    "one less": lambda tensors: {key: value for key, value in tensors.items() if key != "a.up"},
    "one more": reshaped(c_up=torch.zeros(1)),
    "none": lambda tensors: {},
    "another size": reshaped(a_up=torch.zeros(6, 3)),
    "one number": reshaped(a_up=torch.tensor(1.0)),
    "no number": reshaped(a_up=torch.zeros(6, 0)),
    "whole numbers": reshaped(a_up=torch.zeros(6, 2, dtype=torch.int64)),
    "complex": reshaped(a_up=torch.zeros(6, 2, dtype=torch.complex64)),
    "NaN": reshaped(a_up=torch.full((6, 2), torch.nan)),
    "huge": reshaped(a_up=torch.full((6, 2), -1e30)),
    "infinite": reshaped(b_down=torch.full((2, 4), torch.inf)),
}


@pytest.mark.parametrize("change", STUDENTS.values(), ids=STUDENTS)
def test_a_student_of_another_run(state, change):
    tensors = change(load_file(state / "student.safetensors"))
    save_file(tensors, state / "student.safetensors")
    signed(state)
    with pytest.raises(UserError) as caught:
        read(state)
    assert "student.safetensors" in str(caught.value)


# --- optimizer.pt


def put(*place):
    """Replace the entry at this place by the last of the words; DELETE removes it."""
    *keys, last, value = place

    def change(content):
        table = content
        for key in keys:
            table = table[key]
        if value is DELETE:
            del table[last]
        else:
            table[last] = value
        return content

    return change


DELETE = object()
ENTRY = ("optimizer", "state", 1)
GROUP = ("optimizer", "param_groups", 0)
OPTIMIZERS = {
    "a list": lambda content: [content],
    "a number": lambda content: 5,
    "no optimizer": put("optimizer", DELETE),
    "no schedule": put("schedule", DELETE),
    "no forwards": put("forwards", DELETE),
    "optimizer is a list": put("optimizer", []),
    "schedule is a number": put("schedule", 3),
    "scaler is a list": put("scaler", []),
    "forwards is text": put("forwards", "7"),
    "forwards is negative": put("forwards", -7),
    "forwards is huge": put("forwards", 2**70),
    "no state": put("optimizer", "state", DELETE),
    "state is a list": put("optimizer", "state", []),
    "a weight too many": put("optimizer", "state", 9, {}),
    "a weight by name": put("optimizer", "state", "x", {}),
    "a weight's state is a list": put(*ENTRY, []),
    "a weight's state is empty": put(*ENTRY, {}),
    "no moment": put(*ENTRY, "exp_avg", DELETE),
    "no step": put(*ENTRY, "step", DELETE),
    "a moment is a number": put(*ENTRY, "exp_avg", 1.5),
    "a moment is text": put(*ENTRY, "exp_avg_sq", "x"),
    "a moment of one number": put(*ENTRY, "exp_avg", torch.tensor(1.0)),
    "a moment of another size": put(*ENTRY, "exp_avg", torch.zeros(3, 2)),
    "a moment of one row": put(*ENTRY, "exp_avg", torch.zeros(1, 2)),
    "a moment of whole numbers": put(*ENTRY, "exp_avg", torch.zeros(6, 3, dtype=torch.int64)),
    "a moment with NaN": put(*ENTRY, "exp_avg", torch.full((6, 2), torch.nan)),
    "a complex moment": put(*ENTRY, "exp_avg", torch.zeros(6, 2, dtype=torch.complex64)),
    "step of two numbers": put(*ENTRY, "step", torch.ones(2)),
    "step is text": put(*ENTRY, "step", "3"),
    "step before the first": put(*ENTRY, "step", torch.tensor(-1.0)),
    "step is NaN": put(*ENTRY, "step", torch.tensor(torch.nan)),
    "no groups": put("optimizer", "param_groups", DELETE),
    "groups is a table": put("optimizer", "param_groups", {}),
    "two groups": lambda content: put("optimizer", "param_groups", content["optimizer"]["param_groups"] * 2)(content),
    "a group is a number": put("optimizer", "param_groups", 0, 5),
    "weights are others": put(*GROUP, "params", [0, 1, 2, 7]),
    "weights are fewer": put(*GROUP, "params", [0]),
    "betas are text": put(*GROUP, "betas", "x"),
    "betas are NaN": put(*GROUP, "betas", (torch.nan, torch.nan)),
    "weight_decay is a list": put(*GROUP, "weight_decay", []),
    "eps is NaN": put(*GROUP, "eps", torch.nan),
    "no last_epoch": put("schedule", "last_epoch", DELETE),
    "last_epoch is text": put("schedule", "last_epoch", "3"),
    "last_epoch is huge": put("schedule", "last_epoch", 2**70),
    "base_lrs is a number": put("schedule", "base_lrs", 1.0),
    "base_lrs are two": put("schedule", "base_lrs", [1.0, 2.0]),
    "base_lrs are NaN": put("schedule", "base_lrs", [torch.nan]),
    "functions are others": put("schedule", "lr_lambdas", [{"__class__": 1}, None]),
}


@pytest.mark.parametrize("change", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_of_another_kind(state, change):
    content = change(torch.load(state / "optimizer.pt", weights_only=True))
    torch.save(content, state / "optimizer.pt")
    signed(state)
    assert "optimizer.pt" in refused(state)


def test_a_schedule_makes_no_attributes_of_what_it_does_not_have(state):
    content = torch.load(state / "optimizer.pt", weights_only=True)
    content["schedule"] |= {"step": 5, "optimizer": None, "other": 1}
    torch.save(content, state / "optimizer.pt")
    signed(state)
    assert not {"step", "optimizer", "other"} & set(read(state).schedule)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files in folders")
@pytest.mark.parametrize("name", ["state.json", "student.safetensors", "optimizer.pt"])
def test_a_state_of_files_that_never_end(state, name):
    (state / name).unlink()
    os.mkfifo(state / name)
    refused(state)


@pytest.mark.parametrize("where", ["student", "optimizer"])
def test_a_run_refuses_it_before_anything_is_loaded(where, changed, refused, ran, monkeypatch):
    """Through training itself: the model is not loaded for a state that does not fit."""
    from danceopd_ext.toolkits.native import train
    from tests.toolkits.runs import BASE, QUICK

    output = ran(BASE, family="sd3", name="first", max_train_steps=1, save_state=True)
    state, prompts = output / "fused-state", {"base": str(output.parent / "base.txt")}
    if where == "student":
        tensors = load_file(state / "student.safetensors")
        save_file({key: value[..., :1].contiguous() for key, value in tensors.items()}, state / "student.safetensors")
    else:
        content = torch.load(state / "optimizer.pt", weights_only=True)
        content["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1)
        torch.save(content, state / "optimizer.pt")
    signed(state)
    monkeypatch.setattr(train, "build_fields", lambda *_: pytest.fail("the model was loaded"))
    message = refused(changed(BASE, resume=str(state), prompts=prompts, **{**QUICK, "max_train_steps": 3}))
    assert "does not fit this run" in message and "use an earlier state" in message.lower()
