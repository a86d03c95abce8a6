"""Which processes have to be started by hand, because accelerate starts only one on a CPU."""

import os

import pytest

from danceopd_ext.toolkits.native import processes


@pytest.mark.parametrize(
    ("command", "count"),
    [
        (["accelerate", "launch", "--num_processes", "3", "train.py"], 3),
        (["accelerate", "launch", "--num-processes=4", "train.py"], 4),
        (["accelerate", "launch", "train.py"], 1),
        (["accelerate", "launch", "--num_processes"], 1),
        (["accelerate", "launch", "--num_processes", "two", "train.py"], 1),
    ],
)
def test_the_number_in_accelerates_command_line(command, count):
    assert processes.asked_for(command) == count


@pytest.fixture
def launched(monkeypatch):
    """As under `accelerate launch --cpu --num_processes 2`."""
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    parent = type("Parent", (), {"cmdline": lambda self: ["accelerate", "launch", "--num_processes", "2", "train.py"]})
    monkeypatch.setattr(processes.psutil, "Process", lambda pid: parent())
    return monkeypatch


def test_one_is_missing_on_a_cpu(launched):
    assert processes.missing_processes() == 1


def test_none_is_missing_when_the_launcher_started_them(launched):
    launched.setenv("LOCAL_RANK", "0")
    assert processes.missing_processes() == 0


def test_none_is_missing_on_a_gpu_unless_it_is_forbidden(launched):
    launched.setattr(processes.torch.cuda, "is_available", lambda: True)
    assert processes.missing_processes() == 1
    launched.setenv("ACCELERATE_USE_CPU", "False")
    assert processes.has_accelerator()
    assert processes.missing_processes() == 0


def test_none_is_missing_without_a_launcher(launched):
    launched.delenv("MASTER_ADDR")
    before = dict(os.environ)
    with processes.all_processes():
        assert dict(os.environ) == before
