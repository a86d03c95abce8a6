import pytest
import torch

from danceopd_ext.method import draw_query_indices

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
