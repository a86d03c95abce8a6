"""NaN and infinite numbers are found in tensors of every kind."""

import pytest
import torch

from danceopd_ext.finite import broken_weight, first_broken, is_finite

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1, 7, 64, 4099])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_one_number_anywhere(dtype, size, wrong):
    tensor = torch.linspace(-3, 3, size).to(dtype)
    assert is_finite(tensor)
    for place in {0, size // 2, size - 1}:
        broken = tensor.clone()
        broken[place] = wrong
        assert not is_finite(broken)


@pytest.mark.parametrize(
    "tensor",
    [torch.tensor([1, 2]), torch.tensor(True), torch.zeros(0), torch.tensor(2.5), torch.zeros(2, device="meta"),
     torch.ones(2, dtype=torch.float8_e4m3fn), torch.ones(2, dtype=torch.complex64)],
)  # fmt: skip
def test_tensors_without_such_numbers(tensor):
    assert is_finite(tensor)


def test_other_kinds_with_such_numbers():
    assert not is_finite(torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn))
    assert not is_finite(torch.tensor([complex(1, float("inf"))]))
    assert not is_finite(torch.nn.Parameter(torch.tensor(float("nan"))))


def test_the_first_one_is_named():
    tensors = {"a": torch.zeros(2), "b": torch.tensor([float("inf")]), "c": torch.tensor([float("nan")])}
    assert first_broken(tensors) == "b" == first_broken(iter(tensors.items()))
    assert first_broken({"a": torch.zeros(2), "words": "no tensor"}) is None
    module = torch.nn.BatchNorm1d(3)
    assert broken_weight(module) is None
    module.running_var[1] = float("nan")
    assert broken_weight(module) == "running_var"
