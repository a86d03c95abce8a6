from collections import Counter
from itertools import pairwise

import pytest
import torch

from danceopd_ext.method import draw_query_indices
from danceopd_ext.method.query import index_probabilities

STEPS = 16


def draw(query, count, queries=1, total=None, steps=STEPS):
    return draw_query_indices(query, queries, steps, seed=7, step=0, indices=list(range(count)), total=total or count)


@pytest.mark.parametrize(
    ("query", "a", "b"), [("low_noise", 5, 2), ("mid_noise", 5, 5), ("high_noise", 2, 5), ("uniform", 1, 1)]
)
def test_indices_follow_the_beta_distribution(query, a, b):
    indices = draw(query, 4000)[:, 0]
    edges = torch.arange(STEPS + 1) / STEPS
    density = torch.distributions.Beta(torch.tensor(float(a)), torch.tensor(float(b)))
    grid = torch.linspace(0, 1, 16 * 64 + 1)[:-1] + 1 / 2048
    expected = density.log_prob(grid).exp().view(STEPS, 64).mean(dim=1) / STEPS
    found = torch.bincount(indices, minlength=STEPS) / len(indices)
    assert len(edges) == STEPS + 1
    assert (found - expected).abs().max() < 0.02
    assert abs(float(indices.float().mean() + 0.5) / STEPS - a / (a + b)) < 0.01


def test_low_noise_needs_about_eleven_of_sixteen_steps():
    assert 10.7 < float(draw("low_noise", 4000).float().mean()) < 11.2


def test_several_queries_of_a_sample_differ_and_ascend():
    indices = draw("low_noise", 200, queries=4)
    assert (indices[:, 1:] > indices[:, :-1]).all()
    assert draw("mid_noise", 3, queries=STEPS).tolist() == [list(range(STEPS))] * 3


def test_the_second_of_two_is_drawn_among_the_others():
    """Pairs of three indices, against p_i p_j (1 / (1 - p_i) + 1 / (1 - p_j))."""
    at_most = [6 * x**5 - 5 * x**6 for x in (0, 1 / 3, 2 / 3, 1)]  # the distribution function of Beta(5, 2)
    p = [after - before for before, after in pairwise(at_most)]
    assert index_probabilities(5, 2, 3) == pytest.approx(p, abs=1e-15)
    count, pairs = 8000, [(0, 1), (0, 2), (1, 2)]
    found = Counter(map(tuple, draw("low_noise", count, queries=2, steps=3).tolist()))
    for i, j in pairs:
        expected = p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j]))
        assert abs(found[i, j] / count - expected) < 4 * (expected * (1 - expected) / count) ** 0.5
    assert set(found) <= set(pairs)


def test_as_many_queries_as_steps_are_all_of_them_at_once():
    """Indices of a probability of 1e-8: trying until each has come would not end."""
    assert min(index_probabilities(5, 2, 60)) < 1e-8
    assert draw("low_noise", 4, queries=60, steps=60).tolist() == [list(range(60))] * 4


def test_stratified_spreads_queries_and_samples():
    assert sorted(draw("stratified", STEPS)[:, 0].tolist()) == list(range(STEPS))
    rows = draw("stratified", 8, queries=4)
    assert ((rows // 4) == torch.arange(4)).all()
    assert len(set(map(tuple, rows.tolist()))) > 1


def test_a_sample_is_asked_at_the_same_place_whoever_else_is_there():
    whole = draw("low_noise", 8)
    alone = draw_query_indices("low_noise", 1, STEPS, seed=7, step=0, indices=[5], total=8)
    assert alone[0] == whole[5]
    strata = draw("stratified", 8)
    assert draw_query_indices("stratified", 1, STEPS, seed=7, step=0, indices=[5], total=8)[0] == strata[5]
    other = draw_query_indices("low_noise", 1, STEPS, seed=7, step=1, indices=list(range(8)), total=8)
    assert not torch.equal(other, whole)


@pytest.mark.parametrize(("query", "queries"), [("lownoise", 1), ("low_noise", 0), ("low_noise", 17)])
def test_what_cannot_be_drawn_is_refused(query, queries):
    with pytest.raises(ValueError, match="quer"):
        draw(query, 1, queries)


def test_indices_stay_below_the_number_of_steps():
    assert draw("low_noise", 500, steps=1).max() == 0
    assert draw("uniform", 2000, steps=3).unique().tolist() == [0, 1, 2]
