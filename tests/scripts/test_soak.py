"""The soak: what drifts is told from what is only noisy, and a few steps of it run."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest

from danceopd_ext.cli import run
from tests.toolkits.runs import forget_accelerate

SCRIPT = Path(__file__).parents[2] / "scripts" / "campaigns" / "soak.py"


@pytest.fixture(scope="module")
def soak():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("soak_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look there for their own module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def measured(name: str, growth: float, steps: int = 10_000, every: int = 100) -> list[dict[str, float]]:
    """Noisy lines of a run, in which one thing grows by so much per 1,000 steps."""
    rng = random.Random(3)
    usual = {"resident_mb": 900.0, "descriptors": 20, "threads": 9, "seconds": 0.05, "cpu_seconds": 0.05, "gpu_mb": 0.0}
    lines = []
    for step in range(every, steps + 1, every):
        line = {"step": step, **usual}
        line["resident_mb"] += rng.uniform(-3, 3) + (500 if step == 5000 else 0)
        line["cpu_seconds"] *= rng.uniform(0.9, 1.3)
        line[name] += growth * step / 1000
        lines.append(line)
    return lines


def drifting(soak, lines) -> list[str]:
    return [name for name, one in soak.judge(lines).items() if one["drifts"]]


def test_a_steady_run_passes(soak):
    """Noise and a single outlier are no drift."""
    assert drifting(soak, measured("resident_mb", 0.0)) == []


@pytest.mark.parametrize(
    ("name", "growth"),
    [("resident_mb", 4.0), ("descriptors", 1.0), ("threads", 1.0), ("cpu_seconds", 0.002), ("gpu_mb", 1.0)],
)
def test_what_grows_is_found(soak, name, growth):
    assert drifting(soak, measured(name, growth)) == [name]
    assert drifting(soak, measured(name, -growth)) == [], "what gets less is no drift"


def test_the_slope_is_the_one_put_in(soak):
    assert soak.judge(measured("descriptors", 2.0))["descriptors"]["slope"] == pytest.approx(2.0)


def test_a_growth_that_ends_with_the_warm_up_is_none(soak):
    lines = measured("threads", 0.0)
    for line in lines[:10]:
        line["resident_mb"] -= 400 - line["step"] / 3
    assert drifting(soak, lines) == []


def test_a_run_that_is_too_short_to_judge(soak):
    with pytest.raises(soak.TrainingError, match="too few to judge"):
        soak.judge(measured("threads", 0.0, steps=200, every=50))


def test_a_few_steps_of_it(soak, tmp_path, monkeypatch, capsys):
    """The real command, with saves, states and previews; what it says is judged on the steps after the warm-up."""
    monkeypatch.setattr(soak, "WARM_UP", 1)
    generous = {name: soak.Tolerance(one.unit, 1e9, 1e9) for name, one in soak.TOLERANCES.items()}
    monkeypatch.setattr(soak, "TOLERANCES", generous)
    forget_accelerate()
    code = run(soak.main, ["--steps", "7", "--every", "1", "--out", str(tmp_path)])
    forget_accelerate()
    assert code == 0
    lines = [json.loads(line) for line in (tmp_path / "soak.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 8))
    assert all(line["descriptors"] > 0 and line["resident_mb"] > 10 and line["cpu_seconds"] > 0 for line in lines)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == 7 and summary["measured"].keys() == soak.TOLERANCES.keys()
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "output" / "fused.safetensors").is_file() and list((tmp_path / "output" / "sample").iterdir())
    assert "steady over 7 steps" in capsys.readouterr().out
