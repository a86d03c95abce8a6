"""Random numbers that follow from a seed and words."""

import torch

from danceopd_ext.data.seeds import derive, python_rng, torch_generator, uniform


def test_numbers_are_the_same_everywhere_and_for_ever():
    # Fixed values: a change of these changes what every resumed run sees.
    assert derive(42, "route", 7) == 5027941045751015912
    assert python_rng(42, "caption", 1, 2).sample(range(100), 4) == [89, 28, 30, 64]
    assert uniform(42, "route", 7) == 0.545130460493229


def test_words_and_seeds_are_told_apart():
    found = {derive(0, "a", 1), derive(0, "a", "1"), derive(1, "a", 1), derive(0, "a", 1, 1), derive(0, "a"), derive(0)}
    assert len(found) == 6
    assert all(0 <= number < 2**63 for number in found)


def test_uniform_fills_the_unit_interval():
    numbers = [uniform(3, "x", index) for index in range(2000)]
    assert 0 <= min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1
    assert abs(sum(numbers) / 2000 - 0.5) < 0.02


def test_generators_start_afresh_from_the_same_words():
    assert python_rng(1, "x").random() == python_rng(1, "x").random()
    one, two = (torch.rand(3, generator=torch_generator(1, "x")) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, torch.rand(3, generator=torch_generator(1, "y")))
