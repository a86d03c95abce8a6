"""Every method gives the losses that are stored, so that a change that should not change the mathematics proves it."""

from __future__ import annotations

import pytest

from danceopd_ext.method import METHODS
from tests.golden.golden_runs import CASES, STEPS, World, read


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("case", CASES)
def test_losses_are_the_stored_ones(world, case, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    losses = world.losses(case)
    assert len(losses) == STEPS
    assert losses == pytest.approx(read()[case], abs=1e-6, rel=1e-6)


def test_every_method_is_stored():
    assert set(METHODS) <= set(CASES) == set(read())


def test_no_two_cases_have_the_same_losses():
    """Each case tests something that no other does."""
    stored = read()
    different = {tuple(f"{loss:.4g}" for loss in losses) for losses in stored.values()}
    assert len(different) == len(stored)


def test_every_case_learns():
    """A stored loss that stays where it began would hold nothing of the gradient."""
    for case, losses in read().items():
        assert len(set(losses)) == STEPS, case
