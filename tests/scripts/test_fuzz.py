"""A small part of the fuzzing: odd input comes to a result or to a message, never to anything else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import scripts
from danceopd_ext.errors import UserError
from tests.toolkits.conftest import fresh_accelerate  # noqa: F401

SEED = 16
#: target -> how many cases, from the first
CASES = {
    "preset": 30, "hosted": 25, "dataset": 35, "prompts": 35, "samples": 25, "benchmark": 12, "lora": 60,
    "toolkit-state": 12, "model": 8, "signed-state": 8,
}  # fmt: skip
#: more of them: these came to something else once
ONCE = {
    "preset": (43, 54, 182, 385), "hosted": (91,), "dataset": (269, 355), "prompts": (116,), "samples": (86, 106),
    "lora": (231,), "model": (9, 11),
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
        fuzz.TARGETS[target].before(world)
        fuzz.run_batch(target, list(numbers), SEED, world, tmp_path, False, found.append)
        return found

    return run


@pytest.mark.parametrize("target", CASES)
def test_odd_input_comes_to_a_result_or_a_message(fuzz, run, target):
    numbers = [*range(CASES[target]), *ONCE.get(target, ())]
    found = run(target, numbers)
    assert [one.number for one in found] == numbers
    wrong = [one for one in found if one.outcome not in fuzz.RIGHT]
    assert not wrong, "\n".join(fuzz.failures(wrong, SEED))
    if len(found) > 20:
        assert {one.outcome for one in found} == set(fuzz.RIGHT), "input that is all refused tests little"


@pytest.fixture
def judged(fuzz, run, monkeypatch):
    """The outcome of a case that does this."""

    def judged(read):
        targets = sys.modules["fuzzing.targets"]
        made = targets.Target(lambda rng, world, folder: targets.Case(read, ["nothing odd"]), share=1)
        monkeypatch.setitem(fuzz.TARGETS, "own", made)
        (found,) = run("own", [0])
        return found

    return judged


def refuse(stage):
    raise UserError("dataset.toml: resolution is missing.")


def fail(stage):
    stage("reading")
    raise KeyError("x")


def leave(stage):
    os._exit(3)


def never_end(stage):
    while True:
        pass


def take_much(stage):
    bytearray(8 * 2**30)


def clear_the_screen(stage):
    print("a note on \x1b[2J")


def start_the_stranger(stage):
    import stranger  # noqa: F401 - a module that lies beside every preset


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits need processes that are forked")
@pytest.mark.parametrize(
    ("read", "outcome"),
    [
        (print, "result"),
        (refuse, "refused"),
        (fail, "exception"),
        (leave, "died"),
        (never_end, "slow"),
        (take_much, "memory"),
        (clear_the_screen, "escapes"),
        (start_the_stranger, "code"),
    ],
)
def test_every_outcome_is_told_from_the_others(fuzz, judged, monkeypatch, read, outcome):
    monkeypatch.setattr(sys.modules["fuzzing.workers"], "SECONDS", 0.2)
    assert judged(read).outcome == outcome


def test_a_failure_names_the_case_and_the_place(fuzz, judged):
    found = judged(fail)
    assert (found.stage, found.message) == ("reading", "KeyError: 'x'")
    text = "\n".join(fuzz.failures([found], SEED))
    assert f"--seed {SEED} --only own:0" in text and "test_fuzz.py" in text


def test_a_refusal_that_names_neither_file_nor_key_is_counted(fuzz, judged):
    def vague(stage):
        raise UserError("something is wrong.")

    assert judged(vague).nameless and not judged(refuse).nameless
    assert "| own | 1 | 0 | 1 |" in fuzz.table([judged(vague)])


def test_a_case_follows_from_seed_target_and_number(run):
    first, again = run("dataset", range(3)), run("dataset", range(3))
    assert [one.changes for one in first] == [one.changes for one in again]
    assert len({one.changes for one in first}) == 3


def test_the_exit_code_says_whether_all_is_right(fuzz, capsys, monkeypatch, tmp_path):
    words = ["--cases", "2", "--targets", "prompts", "--keep", str(tmp_path / "kept"), "--json", str(tmp_path / "all")]
    assert fuzz.main(words) == 0
    assert "| prompts | 2 |" in capsys.readouterr().out
    assert (tmp_path / "kept" / "prompts-1").is_dir()
    monkeypatch.setattr(fuzz, "RIGHT", ("result",))
    monkeypatch.setattr(fuzz, "run_all", lambda *_: [fuzz.Outcome("prompts", 0, "refused")])
    assert fuzz.main(words) == 1
