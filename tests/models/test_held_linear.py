"""Layers whose weight is held in fewer bits: what they compute, what they keep, and how other code sees them."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.weights import Lora, LowRank
from danceopd_ext.models.held_linear import PACKINGS, HeldLinear
from danceopd_ext.models.number_formats import NUMBER_FORMATS

#: the relative error of an output, and bits of a weight with its scale, for rows of 512
LARGEST_ERRORS = {"nf4": 0.12, "int8": 0.012, "fp8": 0.035}
BITS = {"nf4": 4.25, "int8": 8.0625, "fp8": 8.0625}


def layer_of(word: str, shape=(96, 512), dtype=torch.float32, bias: bool = True) -> tuple[HeldLinear, torch.nn.Linear]:
    """A layer held in the number format of this word, and the one that it was made of."""
    linear = torch.nn.Linear(shape[1], shape[0], bias=bias, dtype=dtype).requires_grad_(False)
    form = PACKINGS[word]
    return HeldLinear(form, form.pack(linear.weight), shape, linear.bias, dtype), linear


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).float().norm() / expected.float().norm())


def test_every_word_has_a_number_format():
    assert tuple(PACKINGS) == NUMBER_FORMATS
    assert [form.name for form in PACKINGS.values()] == list(NUMBER_FORMATS)


@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_its_output_and_the_gradient_of_its_input(word):
    held, linear = layer_of(word)
    x = torch.randn(7, 512, requires_grad=True)
    assert relative(held(x), linear(x)) < LARGEST_ERRORS[word]
    sent = torch.randn(7, 96)
    (found,) = torch.autograd.grad(held(x), x, sent)
    (exact,) = torch.autograd.grad(functional.linear(x, held.weight, linear.bias), x, sent)
    assert torch.equal(found, exact)


@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_how_many_bits_it_takes(word):
    held, _ = layer_of(word, bias=False)
    assert 8 * sum(part.nbytes for part in held.parameters()) / (96 * 512) == BITS[word]
    assert not any(part.requires_grad for part in held.parameters())


@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_neither_its_input_nor_an_unpacked_weight_waits_for_the_gradient(word):
    held, _ = layer_of(word)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        held(torch.randn(7, 512, requires_grad=True))
    assert sorted(tensor.data_ptr() for tensor in kept) == sorted(part.data_ptr() for part in held.held_parts)


@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_it_computes_in_the_precision_of_autocast(word):
    held, linear = layer_of(word)
    x = torch.randn(3, 512, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = held(x)
    assert output.dtype == torch.bfloat16
    assert relative(output, linear(x)) < LARGEST_ERRORS[word] + 0.01
    output.float().sum().backward()
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_code_that_looks_at_its_weight_sees_the_weight(word):
    """Models cast their input to the dtype of a layer's weight."""
    held, linear = layer_of(word, dtype=torch.bfloat16)
    assert (held.weight.dtype, held.weight.shape) == (torch.bfloat16, linear.weight.shape)
    assert relative(held.weight, linear.weight) < LARGEST_ERRORS[word]


@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_casting_the_model_leaves_the_numbers(word):
    held, _ = layer_of(word)
    before = held.held.clone()
    held.to(torch.bfloat16)
    assert torch.equal(held.held, before)


@pytest.mark.parametrize("shape", [(6, 10), (3, 7), (5, 85)])
@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_shapes_that_no_block_divides(word, shape):
    held, linear = layer_of(word, shape)
    assert relative(held.weight, linear.weight) < 0.2


@pytest.mark.parametrize("word", ["int8", "fp8"])
def test_a_row_of_zeros_stays_zero(word):
    weight = torch.randn(4, 8)
    weight[2] = 0
    form = PACKINGS[word]
    found = form.unpack(form.pack(weight), (4, 8), torch.float32)
    assert not found[2].any() and bool(found.isfinite().all())


@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_peft_wraps_it_like_any_linear_layer(word):
    model = torch.nn.Sequential(layer_of(word)[0])
    base = model[0]
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"], init_lora_weights=False), model, "one")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"0.lora_A.one.weight", "0.lora_B.one.weight"}
    x = torch.randn(3, 512)
    change = model[0].lora_B["one"](model[0].lora_A["one"](x)) * model[0].scaling["one"]
    assert torch.allclose(model(x), base(x) + change)
    model(x).sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if name in trained)


@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_gradient_checkpointing_gives_the_same_gradient(word):
    held, _ = layer_of(word)
    factor = torch.nn.Parameter(torch.ones(512))
    x, found = torch.randn(3, 512), []

    def block(x):
        return held(x * factor).square()

    for output in (block(x), checkpoint(block, x, use_reentrant=False)):
        found += torch.autograd.grad(output.sum(), factor)
    assert torch.equal(*found)


@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_adapters_are_put_on_without_unpacking_a_weight(word, monkeypatch):
    """peft looks at a layer's weight twenty times; a model of billions would take minutes on a CPU."""
    model = torch.nn.ModuleDict({"one": layer_of(word)[0]})
    unpacked, unpack = [], type(PACKINGS[word]).unpack
    monkeypatch.setattr(type(PACKINGS[word]), "unpack", lambda *args: unpacked.append(1) or unpack(*args))
    adapters = Adapters(model)
    adapters.add("teacher", Lora({"one": LowRank(torch.randn(2, 512), torch.randn(96, 2))}))
    adapters.add_student("student", 2, 2.0, ["one"])
    assert not unpacked
    assert bool(model["one"](torch.randn(1, 512)).isfinite().all()) and unpacked
    assert bool(model["one"].get_base_layer().weight.isfinite().all())


@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_it_is_compiled_as_one_graph(word):
    """aot_eager finds what torch.compile cannot follow, without a compiler."""
    held, _ = layer_of(word, (64, 64))
    compiled = torch.compile(held, backend="aot_eager", fullgraph=True)
    x = torch.randn(5, 64, requires_grad=True)
    found = []
    for run in (compiled, held):
        output = run(x)
        found.append((output.detach(), *torch.autograd.grad(output.square().sum(), x)))
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(*found, strict=True))
