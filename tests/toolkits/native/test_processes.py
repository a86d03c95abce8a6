"""Which processes have to be started by hand, because accelerate starts only one on a CPU."""

import os
import subprocess
from unittest.mock import Mock

import pytest
import torch

from danceopd_ext.engine import devices
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
    started_by(monkeypatch, LAUNCHER, ["bash"])
    return monkeypatch


LAUNCHER = ["accelerate", "launch", "--num_processes", "2", "train.py"]


def started_by(monkeypatch, *commands):
    """Give this process parents with these command lines, the nearest first."""
    parents = [Mock(cmdline=Mock(return_value=command)) for command in commands]
    monkeypatch.setattr(processes.psutil, "Process", lambda: Mock(parents=lambda: parents))


def test_one_is_missing_on_a_cpu(launched):
    assert processes.missing_processes() == 1


def test_the_launcher_behind_the_python_of_a_windows_environment(launched):
    """There `.venv` has a small python.exe that starts the real one, with the script's own words."""
    started_by(launched, ["python", "train.py"], LAUNCHER, ["python", "quickstart.py"])
    assert processes.missing_processes() == 1


def test_a_launcher_far_away_is_not_ours(launched):
    started_by(launched, ["accelerate", "launch", "train.py"], ["bash"], LAUNCHER)
    assert processes.missing_processes() == 0


def test_none_is_missing_when_the_launcher_started_them(launched):
    launched.setenv("LOCAL_RANK", "0")
    assert processes.missing_processes() == 0


def test_none_is_missing_on_a_gpu_unless_it_is_forbidden(launched):
    launched.setattr(processes.torch.cuda, "is_available", lambda: True)
    assert processes.missing_processes() == 1
    launched.setenv("ACCELERATE_USE_CPU", "False")
    assert devices.has_accelerator()
    assert processes.missing_processes() == 0


def test_none_is_missing_without_a_launcher(launched):
    launched.delenv("MASTER_ADDR")
    before = dict(os.environ)
    with processes.all_processes():
        assert dict(os.environ) == before


class Worker:
    """A process that notes what is done to it; a stubborn one ends only when it is killed."""

    def __init__(self, stubborn):
        self.stubborn, self.done = stubborn, []

    def terminate(self):
        self.done.append("terminate")

    def kill(self):
        self.done.append("kill")

    def wait(self, timeout=None):
        if self.stubborn and "kill" not in self.done:
            assert timeout, "waits for ever"
            raise subprocess.TimeoutExpired("worker", timeout)
        self.done.append("wait")


def started(launched, worker):
    """The worker, as the one process that will be started."""
    launched.setattr(processes.subprocess, "Popen", lambda *_, **__: worker)
    launched.setattr(processes, "_ranks", lambda *_: {})  # else they stay in the environment of other tests
    return worker


@pytest.mark.parametrize(("stubborn", "done"), [(False, ["terminate", "wait"]), (True, ["terminate", "kill", "wait"])])
def test_workers_end_where_the_main_process_fails(launched, stubborn, done):
    """One that is in a step takes the request to end as one to end after the step, which waits for the main process."""
    worker = started(launched, Worker(stubborn))
    with pytest.raises(OSError, match="disk full"), processes.all_processes():
        raise OSError("disk full")
    assert worker.done == done


def test_workers_are_waited_for_where_nothing_failed(launched):
    worker = started(launched, Worker(False))
    with processes.all_processes():
        pass
    assert worker.done == ["wait"]


class TwoProcesses:
    """An accelerator that adds what another process sends."""

    num_processes, device = 2, torch.device("cpu")

    def __init__(self, other):
        self.other = other

    def reduce(self, mine, reduction):
        assert reduction == "mean"
        return (mine + self.other) / 2


def test_gradients_are_averaged_and_a_layer_that_nobody_used_keeps_none():
    first, second, third = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    first.grad = torch.tensor([2.0, 4.0])
    # the other process: used or not, for each of the three, then its gradients
    other = torch.tensor([1.0, 0.0, 1.0, 4.0, 0.0, 0.0, 0.0, 6.0, 8.0])
    processes.average_gradients(TwoProcesses(other), [first, second, third])
    assert first.grad.tolist() == [3.0, 2.0]
    assert second.grad is None
    assert third.grad.tolist() == [3.0, 4.0]
