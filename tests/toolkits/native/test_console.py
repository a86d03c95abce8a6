"""Windows closes the console and ends the process within seconds: what the last whole step has left is saved at once.

The system calls a handler in a thread of its own; here a thread of the test does.
"""

from __future__ import annotations

import ctypes
import threading
from types import SimpleNamespace

import pytest

from danceopd_ext.cli import run
from danceopd_ext.toolkits.native import console, loop, stop
from danceopd_ext.toolkits.native import train as train_module
from danceopd_ext.toolkits.run import main
from tests.tiny.presets import write_preset
from tests.toolkits.runs import forget_accelerate, same_tensors

KEYS = {"max_train_steps": 4, "rollout_steps": 2, "save_state": True}


@pytest.fixture
def preset(pipelines, two_teachers, tmp_path):
    return lambda name="run", **keys: write_preset(
        tmp_path / name, pipelines["sd3"], two_teachers["sd3"], **{**KEYS, **keys}
    )


@pytest.fixture
def closed(monkeypatch):
    """`closed(owner, name, count, then)`: in the `count`-th call the console is closed; `then` instead of the end."""

    def closed(owner, name, count, then):
        ended = threading.Event()

        def end():
            then()
            ended.set()

        real, calls = getattr(owner, name), [0]

        def called(*arguments, **named):
            calls[0] += 1
            if calls[0] == count:
                threading.Thread(target=stop.closing).start()
                assert ended.wait(60)
            return real(*arguments, **named)

        monkeypatch.setattr(stop, "end_process", end)
        monkeypatch.setattr(owner, name, called)

    return closed


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamWScheduleFree"])
def test_in_the_middle_of_a_step_the_last_whole_one_is_saved(preset, closed, launch, capsys, monkeypatch, optimizer):
    """Gradient of step 3: LoRA and state are those of step 2, and a run goes on from there."""
    whole = launch(preset("whole", save_every_n_steps=1, optimizer_type=optimizer))
    path = preset(optimizer_type=optimizer)
    output, at_the_end = path.parent / "output", {}

    def look():
        at_the_end.update(names={file.name for file in output.iterdir()}, told=capsys.readouterr().out)

    with monkeypatch.context():
        closed(loop, "average_gradients", 3, look)
        forget_accelerate()
        assert run(main, ["--config", str(path)]) == 130
        monkeypatch.undo()
    name = "fused-step00000002"
    assert {f"{name}.safetensors", f"{name}-state"} <= at_the_end["names"]
    assert same_tensors(output / f"{name}.safetensors", whole / f"{name}.safetensors")
    assert at_the_end["told"].splitlines()[-1] == (
        f"stopped after step 2, saved {output / name}.safetensors. Resume with: --resume {output / name}-state"
    )
    launch(path, "--resume", output / f"{name}-state")
    assert same_tensors(output / "fused.safetensors", whole / "fused.safetensors")


def test_within_the_change_of_the_weights_it_waits_for_it(preset, launch, monkeypatch):
    """The handler finds weights and step together, or waits until they are."""
    whole = launch(preset("whole", save_every_n_steps=1))
    path, steps = preset(), []
    change, ended = loop.Run.change_weights, threading.Event()

    def changed(self):
        if self.step == 1:
            threading.Thread(target=stop.closing).start()
            assert not ended.wait(0.05)
        change(self)

    monkeypatch.setattr(loop.Run, "change_weights", changed)
    monkeypatch.setattr(stop, "end_process", ended.set)
    real = loop.Run.one_step

    def step(self):
        real(self)
        steps.append(self.step)
        if self.step == 2:
            assert ended.wait(60)

    monkeypatch.setattr(loop.Run, "one_step", step)
    forget_accelerate()
    assert run(main, ["--config", str(path)]) == 130
    name = "fused-step00000002.safetensors"
    assert same_tensors(path.parent / "output" / name, whole / name)


def test_before_the_loop_it_ends_at_once(preset, monkeypatch, capsys):
    monkeypatch.setattr(stop, "UNTIL_KILLED", 0)

    def close(*_):
        thread = threading.Thread(target=stop.closing)
        thread.start()
        thread.join()

    monkeypatch.setattr(train_module, "encode_prompts", close)
    forget_accelerate()
    assert run(main, ["--config", str(preset())]) == 130
    assert capsys.readouterr().out.splitlines()[-1].startswith("stopped before the first step")


def test_a_loop_that_cannot_save_at_once_is_asked_to_stop(monkeypatch):
    """A toolkit's: it uses the seconds that are left for its step."""
    monkeypatch.setattr(stop, "UNTIL_KILLED", 0)
    with stop.StopRequest() as request:
        thread = threading.Thread(target=stop.closing)
        thread.start()
        thread.join()
        assert request.requested


class Kernel:
    """Windows' list of handlers; it asks the last one first."""

    def __init__(self):
        self.handlers = []

    def SetConsoleCtrlHandler(self, handler, add):
        self.handlers.append(handler) if add else self.handlers.remove(handler)
        return 1


def test_the_events_of_windows(monkeypatch):
    kernel, seen = Kernel(), []
    monkeypatch.setattr(console.os, "name", "nt")
    monkeypatch.setattr(ctypes, "WINFUNCTYPE", ctypes.CFUNCTYPE, raising=False)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    unwatch = console.watch_console(lambda: seen.append(threading.current_thread()))
    (handler,) = kernel.handlers
    assert [handler(event) for event in range(7)] == [0, 0, 1, 0, 0, 1, 1]  # not Ctrl-C and Ctrl-Break
    assert len(seen) == 3
    unwatch()
    assert kernel.handlers == []
