"""A small part of the fuzzing: odd input comes to a result or to a message, never to anything else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import scripts

SEED = 16
#: target -> cases
CASES = {
    "preset": 40, "hosted": 30, "dataset": 40, "prompts": 40, "samples": 30, "benchmark": 12, "lora": 70,
    "toolkit-state": 12, "model": 12,
}  # fmt: skip


@pytest.fixture(scope="module")
def fuzz():
    """The script's modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(scripts.__path__[0])))
        patch.setenv("HF_HUB_OFFLINE", "1")
        import fuzz

        yield fuzz
        for name in [name for name in sys.modules if name.partition(".")[0] in ("fuzz", "fuzzing")]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def world(fuzz, tmp_path_factory):
    return fuzz.World(tmp_path_factory.mktemp("fuzz") / "world").make()


@pytest.fixture
def run(fuzz, world, tmp_path):
    """The outcomes of the cases with these numbers."""

    def run(target, numbers):
        found = []
        fuzz.run_batch(target, list(numbers), SEED, world, tmp_path, False, found.append)
        return found

    return run


@pytest.mark.parametrize("target", CASES)
def test_odd_input_comes_to_a_result_or_a_message(fuzz, run, target):
    found = run(target, range(CASES[target]))
    assert len(found) == CASES[target]
    wrong = [one for one in found if one.outcome not in fuzz.RIGHT]
    assert not wrong, "\n".join(fuzz.failures(wrong, SEED))
    assert {one.outcome for one in found} == set(fuzz.RIGHT), "input that is all refused, or all taken, tests little"
