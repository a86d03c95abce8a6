"""LoRA algebra against the same computed on whole matrices."""

from __future__ import annotations

import pytest
import torch
from tiny_lora import deltas_equal, random_lora

from danceopd_ext.lora import algebra
from danceopd_ext.lora.weights import Lora, LowRank


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_combine_is_the_exact_weighted_sum():
    a, b = random_lora("sd3", seed=1), random_lora("sd3", rank=5, seed=2, only="attn")
    total = algebra.combine([(a, 0.5), (b, -2.0)])
    assert total.modules.keys() == a.modules.keys()
    for name, change in total.modules.items():
        expected = 0.5 * a.modules[name].delta()
        if name in b.modules:
            expected = expected - 2.0 * b.modules[name].delta()
            assert change.rank == 8
        torch.testing.assert_close(change.delta(), expected)


def test_combine_nothing():
    with pytest.raises(ValueError):
        algebra.combine([])


def test_merge():
    a, b = random_lora("sd3", seed=1), random_lora("sd3", seed=2)
    total = algebra.combine([(a, 1.0), (b, 1.0)])
    assert deltas_equal(algebra.merge([a, b], "sum"), total)
    assert deltas_equal(algebra.merge([a, b]), total, 0.5)
    with pytest.raises(ValueError, match="median"):
        algebra.merge([a, b], "median")


def test_compress_is_the_best_approximation():
    change = LowRank(random(9, 20), random(30, 9, seed=1))
    small = algebra.compress(Lora({"x": change}), 4).modules["x"]
    left, singular, right = torch.linalg.svd(change.delta(), full_matrices=False)
    torch.testing.assert_close(small.delta(), left[:, :4] * singular[:4] @ right[:4], rtol=1e-4, atol=1e-4)
    assert small.rank == 4
    torch.testing.assert_close(small.down_RI @ small.down_RI.T, small.up_OR.T @ small.up_OR, rtol=1e-4, atol=1e-3)


def test_compress_to_more_than_the_rank_changes_nothing():
    lora = random_lora("z_image")
    assert deltas_equal(algebra.compress(lora, 64), lora, tolerance=1e-5)


@pytest.mark.parametrize("size", [(24, 20), (200, 160)])  # the whole decomposition, and the randomised one
def test_extract_finds_a_low_rank_change(size):
    base = {"a.weight": random(*size), "b.weight": random(*size, seed=1), "same.weight": random(*size)}
    change = LowRank(random(3, size[1], seed=2), random(size[0], 3, seed=3) * 0.1)
    tuned = {name: weight.clone() for name, weight in base.items()}
    tuned["a.weight"] += change.delta()
    tuned["b.weight"] += random(*size, seed=4)
    lora, errors = algebra.extract(base, tuned, ["a", "b", "same"], 3)
    assert set(lora.modules) == {"a", "b"} and lora.modules["a"].rank == 3
    assert errors["a"] < 1e-5
    singular = torch.linalg.svdvals(tuned["b.weight"] - base["b.weight"])
    best = float(singular[3:].norm() / singular.norm())
    assert best <= errors["b"] * (1 + 1e-5) and errors["b"] < best * 1.01
    torch.manual_seed(99)
    again, _ = algebra.extract(base, tuned, ["a", "b"], 3)
    assert torch.equal(again.modules["b"].up_OR, lora.modules["b"].up_OR)


def test_extract_leaves_the_global_generator_alone():
    base = {"a.weight": random(200, 160)}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    algebra.extract(base, {"a.weight": random(200, 160, seed=1)}, ["a"], 3)
    assert torch.equal(torch.rand(1), expected)


def test_extract_from_a_module():
    linear = torch.nn.Sequential(torch.nn.Linear(8, 6))
    lora, errors = algebra.extract(linear, {"0.weight": linear[0].weight + 1}, ["0"], 1)
    torch.testing.assert_close(lora.modules["0"].delta(), torch.ones(6, 8), rtol=1e-4, atol=1e-4)
    assert errors["0"] < 1e-5


def test_extract_of_another_size():
    with pytest.raises(ValueError, match="a: "):
        algebra.extract({"a.weight": random(4, 4)}, {"a.weight": random(4, 5)}, ["a"], 1)


def test_relative_difference():
    a, b = random_lora("sd3", seed=1), random_lora("sd3", seed=2)
    dense = {name: (a.modules[name].delta(), b.modules[name].delta()) for name in a.modules}
    difference = sum(float((x - y).norm() ** 2) for x, y in dense.values()) ** 0.5
    size = sum(float(y.norm() ** 2) for _, y in dense.values()) ** 0.5
    assert algebra.relative_difference(a, b) == pytest.approx(difference / size, rel=1e-5)
    assert algebra.relative_difference(a, a) < 1e-12
    zero = Lora({name: LowRank(c.down_RI, c.up_OR * 0) for name, c in a.modules.items()})
    assert algebra.relative_difference(a, zero) == float("inf")
