"""The seconds of a step's stages, with a clock that the test turns."""

from __future__ import annotations

import pytest
import torch

from danceopd_ext.toolkits import stage_clock
from danceopd_ext.toolkits.stage_clock import STAGES, StageClock


@pytest.fixture
def now(monkeypatch):
    """The time, as a list of one number."""
    time = [100.0]
    monkeypatch.setattr(stage_clock.time, "perf_counter", lambda: time[0])
    return time


def test_stages_add_up_and_start_again_with_each_step(now):
    clock = StageClock(torch.device("cpu"))
    for seconds in (2.0, 3.0):
        with clock("rollout"):
            now[0] += seconds
    with clock("match"):
        now[0] += 1.0
    assert clock.take(7.5) == {"rollout": 5.0, "teacher": 0.0, "match": 1.0, "optimizer": 0.0}
    with clock("optimizer"):
        now[0] += 0.5
    assert clock.take(0.5) == {"rollout": 0.0, "teacher": 0.0, "match": 0.0, "optimizer": 0.5}
    assert clock.summary() == (
        "time     8.0 s for 2 steps: rollout 5.0 s, teacher 0.0 s, match 1.0 s, optimizer 0.5 s, everything else 1.5 s"
    )


def test_a_stage_within_another_is_part_of_it(now):
    clock = StageClock(torch.device("cpu"))
    with clock("match"):
        now[0] += 1.0
        with clock("optimizer"):
            now[0] += 1.0
    assert clock.take(2.0) == {"rollout": 0.0, "teacher": 0.0, "match": 2.0, "optimizer": 0.0}


def test_a_stage_that_fails_is_over(now):
    clock = StageClock(torch.device("cpu"))
    with pytest.raises(RuntimeError), clock("rollout"):
        raise RuntimeError
    with clock("teacher"):
        now[0] += 1.0
    assert clock.take(1.0)["teacher"] == 1.0


def test_without_a_step_there_is_no_summary():
    assert StageClock(torch.device("cpu")).summary() == ""


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_it_waits_for_the_work_of_a_gpu(now, monkeypatch, kind):
    """The GPU ends its work only when somebody waits for it: that counts for the stage that gave the work."""
    work = []

    def synchronize(*_):
        now[0] += sum(work)
        work.clear()

    monkeypatch.setattr(getattr(torch, kind), "synchronize", synchronize)
    clock = StageClock(torch.device(kind))
    for seconds, stage in enumerate(STAGES, start=1):
        with clock(stage):
            work.append(seconds)
    assert clock.take(10.0) == {"rollout": 1.0, "teacher": 2.0, "match": 3.0, "optimizer": 4.0}
