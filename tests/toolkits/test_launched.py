"""Which parent is a launcher, and what its end does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import psutil
import pytest

from danceopd_ext.toolkits import launched
from danceopd_ext.toolkits.launched import STARTED_BY, about_exit_code, find_launcher, is_launcher, watched_launcher


@pytest.mark.parametrize(
    "words",
    [
        ["/venv/bin/python", "/venv/bin/accelerate", "launch", "train_danceopd.py"],
        ["python", "-m", "accelerate.commands.launch", "--cpu", "train_danceopd.py"],
        ["/venv/bin/python", "/venv/bin/torchrun", "--nproc_per_node", "2", "train_danceopd.py"],
        ["python", "-m", "torch.distributed.run", "train_danceopd.py"],
        ["C:/venv/Scripts/accelerate.exe", "launch", "train_danceopd.py"],
    ],
)
def test_launchers(words):
    assert is_launcher(words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["bash"],
        ["-bash"],
        ["sh", "-c", "accelerate launch train_danceopd.py; python train_danceopd.py"],
        ["tmux"],
        ["nohup", "python", "train_danceopd.py"],
        ["python", "scripts/quickstart.py"],
    ],
)
def test_shells_and_others(words):
    assert not is_launcher(words)


@pytest.fixture
def process():
    """A process that ends when its stdin does."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(launched, "EVERY", 0.01)
    monkeypatch.delenv(STARTED_BY, raising=False)


def never(*_):
    raise AssertionError("not gone")


def test_the_end_of_the_launcher(monkeypatch, process):
    """It is a zombie at first, as this test does not wait for it yet."""
    seen, called = [], threading.Event()
    monkeypatch.setattr(launched, "find_launcher", lambda: psutil.Process(process.pid))
    with watched_launcher(lambda reason: (seen.append(reason), called.set()), never):
        process.kill()
        assert called.wait(30)
    assert seen == ["the launcher has ended"]


def test_the_end_of_the_first_process(monkeypatch, process):
    called = threading.Event()
    monkeypatch.setenv(STARTED_BY, str(process.pid))
    with watched_launcher(never, called.set):
        process.kill()
        assert called.wait(30)


def test_a_first_process_that_has_ended_already(monkeypatch, process):
    process.kill()
    process.wait()
    called = threading.Event()
    monkeypatch.setenv(STARTED_BY, str(process.pid))
    with watched_launcher(never, called.set):
        assert called.wait(30)


def test_without_a_launcher_nobody_is_watched(monkeypatch):
    """A shell is the parent of the tests, or pytest's own."""
    monkeypatch.setattr(launched.threading, "Thread", never)
    monkeypatch.setattr(launched, "find_launcher", lambda: None)
    with watched_launcher(never, never):
        pass


class Parent:
    def __init__(self, words):
        self.cmdline = lambda: words


@pytest.mark.parametrize(
    ("words", "elastic", "told"),
    [
        (["accelerate", "launch", "train.py"], "", "--quiet leaves that out"),
        (["accelerate", "launch", "--quiet", "train.py"], "", ""),
        (["accelerate", "launch", "--multi_gpu", "train.py"], "1", "torchrun reports"),
        (["bash"], "", ""),
    ],
)
def test_what_the_launcher_adds_is_told(monkeypatch, words, elastic, told):
    monkeypatch.setattr(psutil.Process, "parents", lambda _: [Parent(words)])
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if elastic:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", elastic)
    assert (find_launcher() is None) == (words == ["bash"])
    assert told in about_exit_code() and bool(about_exit_code()) == bool(told)


def test_the_first_process(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert launched.is_first_process()
    monkeypatch.setenv("RANK", "1")
    assert not launched.is_first_process()
    assert os.environ["RANK"] == "1"
