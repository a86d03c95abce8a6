"""Another version of a toolkit is noticed where our code and the toolkit's meet."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.checkout import Checkout
from danceopd_ext.toolkits.hosted.seams import (
    Call,
    SeamCall,
    Seams,
    ToolkitChanged,
    check_seams,
    supported,
    trainer_of,
    unpacked,
    version_error,
)

FOUND = Checkout(Path("folder"), "abc", False, "sd-scripts")


class NetworkTrainer:
    def process_batch(self, batch, unet, is_train=True):
        return batch, unet, is_train

    def update_metadata(self, metadata, args): ...

    def nested(self, flag):
        def inner():
            return 1, 2, 3

        if flag:
            return inner(), 2
        return [1, 2]

    def starred(self, *values):
        return (1, *values)


def problems(methods=None, **more) -> str:
    with pytest.raises(UserError) as error:
        check_seams(NetworkTrainer, Seams(methods or {}, **more), FOUND)
    return str(error.value)


# --- before the run


def test_seams_that_are_there():
    methods = {"process_batch": ("batch", "is_train", "dit|unet"), "update_metadata": (), "nested": (), "starred": ()}
    returns = {"process_batch": 3, "nested": 2, "starred": 7, "update_metadata": 4}
    check_seams(NetworkTrainer, Seams(methods, returns), FOUND)


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        ({"process_batch": ("batch", "network", "vae")}, "NetworkTrainer.process_batch lacks network, vae."),
        ({"process_batch": ("dit|mmdit",)}, "NetworkTrainer.process_batch lacks dit or mmdit."),
        ({"call_unet": ("batch",)}, "NetworkTrainer.call_unet is missing."),
        (
            {"call_unet": (), "update_metadata": ("step",)},
            "NetworkTrainer.call_unet is missing; NetworkTrainer.update_metadata lacks step.",
        ),
    ],
)
def test_seams_that_changed(expected, told):
    message = problems(expected)
    assert message.startswith("sd-scripts at folder (version abc) is not supported: ")
    assert told in message
    assert "Check out a tested version: 2025-08, commit 18e62515; 2026-02, commit 48d368fa; v0.11.1" in message
    assert message.endswith("commit 6721028c.")


def test_another_number_of_returned_values():
    assert "NetworkTrainer.process_batch returns 3 values, not 4" in problems(
        {"process_batch": ()}, returns={"process_batch": 4}
    )
    assert "NetworkTrainer.nested returns 2 values, not 3" in problems({"nested": ()}, returns={"nested": 3})


@pytest.fixture
def module(monkeypatch):
    made = ModuleType("toolkit_here")
    exec(compile(SOURCE, __file__, "exec"), vars(made))
    monkeypatch.setitem(sys.modules, "toolkit_here", made)
    return made


SOURCE = """
class Dataset:
    def __init__(self, size, seed, *, names=(), **more): ...
    def add(self, item, key): ...

def make(text, options=None):
    return text, options
"""


@pytest.mark.parametrize(
    "call",
    [
        Call("toolkit_here:Dataset", ("size", "seed"), ("names", "other")),
        Call("toolkit_here:Dataset", named=("size", "seed")),
        Call("toolkit_here:Dataset", ("",), known=("seed",)),
        Call("toolkit_here:Dataset.add", ("", "item", "key")),
        Call("toolkit_here:make", ("text",), ("options",), returns=2),
    ],
)
def test_what_is_called_as_it_is(module, call):
    assert call.problems() == []


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (Call("toolkit_here:Gone"), "toolkit_here.Gone is missing"),
        (Call("toolkit_gone:make"), "toolkit_gone.make is missing"),
        (Call("toolkit_here:Dataset", ("seed", "size")), "Dataset does not take seed, size at the expected position"),
        (Call("toolkit_here:Dataset", ("size",)), "Dataset also needs seed"),
        (Call("toolkit_here:make", ("text", "", "third")), "make does not take third at the expected position"),
        (Call("toolkit_here:make", named=("text", "prompt")), "make lacks prompt"),
    ],
)
def test_what_is_called_and_changed(module, call, told):
    assert call.problems() == [told]
    assert told in problems(calls=[call])


def test_only_what_a_version_takes_is_given(module):
    assert supported(module.make, options=1, train_inpainting=False) == {"options": 1}


# --- during the run


def test_a_call_is_read_by_name_and_passed_on_as_it_came():
    class Newer:
        def step(self, network, args, *, device=None, **more):
            return network, args, device, more

    call = SeamCall(Newer().step, ("network",), {"args": "args", "device": "cpu", "unknown": 1})
    assert call.several("args", "network") == ("args", "network")
    assert call["unet|network"] == "network"
    assert call.call_original() == ("network", "args", "cpu", {"unknown": 1})
    assert call.call_original(args="others") == ("network", "others", "cpu", {"unknown": 1})
    with pytest.raises(ToolkitChanged, match="step lacks unet or dit"):
        call["unet|dit"]


def test_defaults_are_read_as_well():
    assert SeamCall(NetworkTrainer().process_batch, (1, 2), {})["is_train"] is True


def test_returned_values_are_counted():
    assert unpacked([1, 2], 2, "make") == (1, 2)
    for value, count in (((1, 2, 3), 3), ("text", 1), (None, 1)):
        with pytest.raises(ToolkitChanged, match=f"make returns {count} value"):
            unpacked(value, 2, "make")


def failing(tmp_path: Path, body: str, call=lambda function: function()) -> Exception:
    """The error of a function in a file of the toolkit's, called from here as if from our package."""
    file = tmp_path / "train_network.py"
    file.write_text(f"def train(seam=None):\n    {body}\n", encoding="utf-8")
    names: dict = {}
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), names)
    with pytest.raises(Exception) as raised:
        call(names["train"])
    return raised.value


def told(error: Exception, folder: Path, tested: bool = False) -> str | None:
    message = version_error(error, Checkout(folder, "abc", tested, "musubi-tuner"), ["process_batch"])
    return None if message is None else str(message)


def test_an_error_of_the_toolkit_alone_keeps_its_traceback(tmp_path):
    assert told(failing(tmp_path, "[] + 1"), tmp_path) is None
    assert told(failing(tmp_path, "raise RuntimeError('CUDA out of memory')"), tmp_path) is None


@pytest.mark.parametrize(
    "body", ["a, b, c, d = [1, 2]  # process_batch(", "raise TypeError('process_batch() missing x')"]
)
def test_an_error_at_a_call_of_a_seam_is_told(tmp_path, body):
    message = told(failing(tmp_path, body), tmp_path)
    assert message.startswith(f"musubi-tuner at {tmp_path} (version abc) has changed: train_network.py:2, train (")
    assert message.endswith("Check out a tested version: 0.3.4, commit 30c658c; 0.3.4 of 2026-07, commit fe4818d.")
    assert told(failing(tmp_path, body), tmp_path, tested=True) is None


def test_an_error_in_our_own_frame_is_told(tmp_path):
    def call(function):
        SeamCall(function, (), {"new": 1})

    message = told(failing(tmp_path, "pass", call), tmp_path)
    assert "seams.py" in message
    assert "unexpected keyword argument 'new'" in message


def test_what_is_known_to_have_changed_is_told_on_every_version(tmp_path):
    for tested in (True, False):
        assert "has changed: make returns 3 values, not 2" in told(
            ToolkitChanged("make returns 3 values, not 2"), tmp_path, tested
        )


def test_wrong_input_is_not_a_change(tmp_path):
    assert told(failing(tmp_path, "raise ValueError('resolution is too large')  # process_batch("), tmp_path) is None


@pytest.mark.parametrize("found", [{}, {"Trainer": 3}])
def test_a_script_without_the_trainer_is_another_version(found):
    with pytest.raises(UserError) as error:
        trainer_of(SimpleNamespace(__name__="train", **found), "Trainer", FOUND)
    for part in (
        "sd-scripts at folder (version abc)",
        "train.Trainer is missing",
        "Check out a tested version: ",
        "commit 18e62515",
    ):
        assert part in str(error.value)
    assert trainer_of(SimpleNamespace(__name__="train", Trainer=Path), "Trainer", FOUND) is Path
