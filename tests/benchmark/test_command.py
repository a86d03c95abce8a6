"""The benchmark measures two ways that do the same work, and says what it found."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from danceopd_ext.benchmark import command as benchmark
from danceopd_ext.method import draw_query_indices
from tests.toolkits.conftest import fresh_accelerate  # noqa: F401

WORDS = ["--model", "random", "--device", "cpu", "--threads", "1", "--batch", "3", "--updates", "2"]
WORDS += ["--resolution", "64", "--repeats", "1"]


@pytest.fixture(params=["sd3", "z_image"])
def measured(request, tmp_path):
    """(arguments, way -> its measurement) of a small random model."""
    args = benchmark.arguments([*WORDS, "--family", request.param, "--folder", str(tmp_path)])
    benchmark.make_random(args)
    return args, {way: benchmark.measure(args, way) for way in benchmark.WAYS}


def test_both_ways_do_the_same_with_other_forwards(measured):
    args, found = measured
    assert benchmark.difference(args.folder) < benchmark.SAME
    steps = range(1, args.updates + 1)  # the first is not timed
    queries = [
        draw_query_indices("low_noise", 1, 16, seed=42, step=step, indices=[0, 1, 2], total=3).sum() for step in steps
    ]
    assert found["plain"]["rollout_forwards"] == 16 * 3
    assert found["ours"]["rollout_forwards"] == sum(map(int, queries)) / args.updates
    for way in found.values():
        assert way["teacher_forwards"] == way["student_forwards"] == 3
        assert all(value > 0 for key, value in way.items() if key != "work_mb")
    assert found["plain"]["parameters_mb"] > 2 * found["ours"]["parameters_mb"]


def test_difference_sees_another_gradient(tmp_path):
    for way, value in {"plain": [3.0, 4.0], "ours": [3.0, 4.5]}.items():
        save_file({"layer.up": torch.tensor(value)}, tmp_path / f"{way}.gradient")
    assert benchmark.difference(tmp_path) == pytest.approx(0.1)


def test_the_program_prints_and_writes_what_it_measured(monkeypatch, capsys, tmp_path):
    """All but the work of the processes."""
    seconds = iter([3.0, 1.0, 5.0, 2.0, 4.0, 1.5])

    def worker(words, args):
        for way in benchmark.WAYS:
            save_file({"layer.up": torch.ones(2)}, args_folder(words) / f"{way}.gradient")
        return json.dumps(dict.fromkeys(benchmark.ROWS, 8.0) | {"seconds": next(seconds)})

    monkeypatch.setattr(benchmark, "in_its_own_process", worker)
    file = tmp_path / "found.json"
    benchmark.main(["--device", "cpu", "--json", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert "| | plain | ours | plain / ours |" in lines
    assert "| seconds per update | 4.000 (3.000 to 5.000) | 1.500 (1.000 to 2.000) | 2.67 |" in lines
    assert all(any(line.startswith(f"| {title} |") for line in lines) for title in benchmark.ROWS.values())
    written = json.loads(file.read_text(encoding="utf-8"))
    assert [m["seconds"] for m in written["measurements"]["ours"]] == [1.0, 2.0, 1.5]
    assert written["gradient_difference"] == 0


def args_folder(words):
    return benchmark.arguments(words).folder


def test_other_mathematics_is_an_error(monkeypatch):
    monkeypatch.setattr(benchmark, "take_turns", lambda words: ({way: [FOUND] for way in benchmark.WAYS}, 1e-3))
    with pytest.raises(SystemExit, match="compute different gradients"):
        benchmark.main(["--device", "cpu"])


FOUND = dict.fromkeys(benchmark.ROWS, 1.0)


@pytest.mark.parametrize("words", [["--batch", "4", "--micro-batch", "3"], ["--updates", "0"], ["--repeats", "0"]])
def test_counts_that_cannot_be_are_refused(words):
    with pytest.raises(SystemExit):
        benchmark.arguments(words)
