"""Models of every family with quantised weights: loaded part by part, and close to what they were."""

from __future__ import annotations

import importlib.util
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from danceopd_ext.errors import UserError
from danceopd_ext.models import quantising
from danceopd_ext.models.held_linear import PACKINGS, HeldLinear, place
from danceopd_ext.models.layout import is_outer
from danceopd_ext.models.loading import load_layout, load_transformer, stream
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.models.number_formats import NUMBER_FORMATS
from danceopd_ext.models.quantising import check_quantisation
from danceopd_ext.models.text_pipeline import load_text_pipeline
from tests.tiny.calls import conditions, noise_for, relative
from tests.tiny.pipelines import ALL

CPU = torch.device("cpu")
#: the relative error of a velocity of tiny random models, which forgive less than trained ones
LARGEST_ERRORS = {"nf4": 0.5, "int8": 0.04, "fp8": 0.2}


@pytest.fixture(scope="module")
def asked(folder):
    """A family's files, what its velocity takes, and the velocity of the model as it is."""
    files = find_model_files(str(folder))
    pipeline = ALL[files.family.name]()
    condition = conditions(files.family, pipeline, ["a cat"])
    noise = noise_for(files.family, pipeline, (32, 32))

    def velocity(transformer: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return files.family.velocity(transformer, noise, torch.tensor([0.7]), condition)

    return files, velocity, velocity(load_transformer(files, torch.float32))


@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_a_quantised_model_is_near_to_what_it_was(asked, word):
    files, velocity, exact = asked
    error = relative(velocity(load_transformer(files, torch.float32, word)), exact)
    assert 0 < error < LARGEST_ERRORS[word]


def test_the_linear_layers_of_blocks_are_held_and_nothing_else(asked):
    files, _, _ = asked
    model = load_transformer(files, torch.bfloat16, "int8")
    layers = load_layout(files)[0].shapes
    held = {name for name, module in model.named_modules() if isinstance(module, HeldLinear)}
    assert held == {layer for layer in layers if not is_outer(layer)}
    others = {name: p.dtype for name, p in model.named_parameters() if name.rpartition(".")[0] not in held}
    assert set(others.values()) == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def test_quantising_gives_the_same_numbers_each_time(pipelines):
    files = find_model_files(str(pipelines["z_image"]))
    one, other = (load_transformer(files, torch.float32, "fp8").state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["sd3", "z_image"])
def test_text_encoders(pipelines, name):
    files = find_model_files(str(pipelines[name]))
    whole, held = (load_text_pipeline(files, torch.float32, CPU, word) for word in (None, "int8"))
    encoders = [part for part in held.components.values() if isinstance(part, torch.nn.Module)]
    assert all(any(isinstance(layer, HeldLinear) for layer in encoder.modules()) for encoder in encoders)
    exact, found = (files.family.encode_prompts(pipeline, ["a cat"])[0] for pipeline in (whole, held))
    for part, tensor in exact.items():
        assert found[part].dtype == tensor.dtype
        assert 0 < relative(found[part].float(), tensor.float()) < 0.05, part


def test_each_weight_is_quantised_as_it_is_read(pipelines, monkeypatch):
    """So a model never lies in main memory as it was."""
    done, make = [], quantising._held

    def held(layer, weight, *more):
        assert all(isinstance(model.get_submodule(name), HeldLinear) for model, name in done)
        return make(layer, weight, *more)

    def placed(model, name, new):
        place(model, name, new)
        done.append((model, name))

    monkeypatch.setattr(quantising, "_held", held)
    monkeypatch.setattr(quantising, "place", placed)
    load_transformer(find_model_files(str(pipelines["z_image"])), torch.float32, "int8")
    assert len(done) == 31


def test_a_weight_that_is_not_finite_is_named(pipelines, tmp_path):
    shutil.copytree(pipelines["z_image"], tmp_path / "model")
    weights = next((tmp_path / "model" / "transformer").glob("*.safetensors"))
    tensors = load_file(weights)
    tensors["layers.1.attention.to_k.weight"][3, 2] = float("nan")
    save_file(tensors, weights)
    for word in NUMBER_FORMATS:
        with pytest.raises(UserError, match=r"layers\.1\.attention\.to_k.* holds NaN or infinite numbers"):
            load_transformer(find_model_files(str(tmp_path / "model")), torch.float32, word)


@pytest.mark.parametrize("word", NUMBER_FORMATS)
def test_every_number_format_works_here(word):
    check_quantisation(word, CPU, "quantize")


def test_a_package_that_is_missing_is_named_with_its_command(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(quantising, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(UserError, match=r'quantize_text_encoders = "nf4" needs bitsandbytes: pip install bitsandbytes'):
        check_quantisation("nf4", CPU, "quantize_text_encoders")


def test_a_device_that_cannot_compute_with_it_is_named(monkeypatch):
    def refuse(weight):
        raise TypeError("Cannot convert a MPS Tensor to float8")

    monkeypatch.setattr(type(PACKINGS["fp8"]), "pack", lambda self, weight: refuse(weight))
    with pytest.raises(UserError, match=r'"fp8" does not work on this device \(cpu\): .*float8.*"int8" or "nf4"'):
        check_quantisation("fp8", CPU, "quantize")


def test_a_device_that_gives_wrong_numbers_is_refused(monkeypatch):
    wrong = type(PACKINGS["int8"]).unpack
    monkeypatch.setattr(type(PACKINGS["int8"]), "unpack", lambda self, *more: wrong(self, *more) * 2)
    with pytest.raises(UserError, match=r'quantize = "int8" gives wrong numbers'):
        check_quantisation("int8", CPU, "quantize")


def test_a_quantised_model_can_be_streamed(pipelines):
    """As a teacher that is a whole checkpoint is: layer by layer, through diffusers' group offloading."""
    files = find_model_files(str(pipelines["sd3"]))
    pipeline = ALL["sd3"]()
    condition, noise = conditions(files.family, pipeline, ["a cat"]), noise_for(files.family, pipeline, (32, 32))
    found = []
    for streamed in (False, True):
        model = load_transformer(files, torch.float32, "fp8")
        if streamed:
            stream(model, CPU)
        with torch.no_grad():
            found.append(files.family.velocity(model, noise, torch.tensor([0.5]), condition))
    assert torch.equal(*found)
