"""Files that are quantised already: float8, plain or scaled, and GGUF."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from danceopd_ext.engine.model import find_model
from danceopd_ext.errors import UserError
from danceopd_ext.models import gguf_files
from danceopd_ext.models.gguf_files import Ggml
from danceopd_ext.models.held_linear import FP8, INT8, HeldLinear
from danceopd_ext.models.loading import load_transformer
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.models.registry import FAMILIES
from tests.tiny.pipelines import ALL, save_any
from tests.tiny.quantised_files import to_float8_file, to_gguf
from tests.tiny.single_file import to_single_file

CPU = torch.device("cpu")
#: families whose layers are named, fused and swapped in different ways in such files
KINDS = ("sd3", "z_image", "flux_2")


@pytest.fixture(scope="module", params=KINDS)
def plain(request, tmp_path_factory):
    """A family's name, its components, and the original file of a transformer."""
    return made(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same of one family."""
    return made("z_image", tmp_path_factory.mktemp("one"))


def made(name, folder):
    components = save_any(name, folder / "model")
    return name, components, to_single_file(name, ALL[name](seed=5).transformer, folder / "plain.safetensors")


def loaded(file, plain, word=None, dtype=torch.float32) -> torch.nn.Module:
    name, components, _ = plain
    return load_transformer(find_model_files(str(file), name, str(components)), dtype, word)


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: module.weight for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


@pytest.mark.parametrize("names", [("scale_weight", "scale_input"), ("weight_scale", "input_scale"), ()])
def test_float8_weights_stay_in_float8_with_their_scales(plain, tmp_path, names):
    file = to_float8_file(plain[2], tmp_path / "fp8.safetensors", names)
    model, exact = loaded(file, plain), weights_of(loaded(plain[2], plain))
    held = {name: module for name, module in model.named_modules() if isinstance(module, HeldLinear)}
    tensors = load_file(file)
    in_float8 = [name for name, tensor in tensors.items() if tensor.dtype == FP8.kind and name.endswith(".weight")]
    layout = FAMILIES[plain[0]].layout(ALL[plain[0]]().transformer)
    expected = {part for name in in_float8 for part in layout.native[name.removesuffix(".weight")]}
    assert held.keys() == expected and in_float8
    assert {layer.form for layer in held.values()} == {FP8}
    for name, layer in held.items():
        error = float((layer.weight - exact[name]).norm() / exact[name].norm())
        assert error < (0.035 if names else 0.1), name
    for native, parts in layout.native.items():  # to the bit, as ComfyUI computes it
        if f"{native}.weight" in in_float8 and not layout.swapped.intersection(parts):
            scale = tensors[f"{native}.{names[0]}"] if names else 1.0
            whole = torch.cat([held[part].weight for part in parts])
            assert torch.equal(whole, tensors[f"{native}.weight"].float() * scale), native
    others = {name: p for name, p in model.named_parameters() if name.rpartition(".")[0] not in held}
    assert {parameter.dtype for parameter in others.values()} == {torch.float32}
    for name, weight in weights_of(model).items():
        if name not in held:
            assert torch.equal(weight, exact[name])


@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (-1, 4, 1)])
def test_scales_of_rows_and_blocks_are_applied(one, tmp_path, shape):
    """They do not follow a fused weight that diffusers splits, so the weight becomes the model's dtype."""
    tensors, name = load_file(one[2]), "layers.0.attention.qkv.weight"
    weight = tensors[name]
    blocks = weight.reshape(len(weight), shape[1] if len(shape) == 3 else 1, -1)
    scale = blocks.abs().amax(2, keepdim=True) / 448
    tensors[name] = (blocks / scale).reshape(weight.shape).to(FP8.kind)
    tensors["layers.0.attention.qkv.scale_weight"] = scale.reshape(shape)
    save_file(tensors, tmp_path / "rows.safetensors")
    found, exact = (weights_of(loaded(file, one)) for file in (tmp_path / "rows.safetensors", one[2]))
    errors = {layer: float((w - exact[layer]).norm() / exact[layer].norm()) for layer, w in found.items()}
    assert {layer for layer, error in errors.items() if error} == {f"layers.0.attention.to_{part}" for part in "qkv"}
    assert max(errors.values()) < 0.035
    tensors["layers.0.attention.qkv.scale_weight"] = torch.ones(7)
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match=r"odd.safetensors: the scale of layers.0.attention.qkv.weight is \(7,\)"):
        loaded(tmp_path / "odd.safetensors", one)


def test_a_float8_file_can_be_held_in_another_format(one, tmp_path):
    file = to_float8_file(one[2], tmp_path / "fp8.safetensors")
    forms = {m.form for m in loaded(file, one, "int8").modules() if isinstance(m, HeldLinear)}
    assert INT8 in forms
    same = loaded(file, one, "fp8").state_dict()
    as_it_is = loaded(file, one).state_dict()
    assert all(torch.equal(same[name], tensor) for name, tensor in as_it_is.items() if name in same)


def test_a_nan_in_float8_is_found(one, tmp_path):
    tensors = load_file(to_float8_file(one[2], tmp_path / "fp8.safetensors"))
    name = next(key for key, tensor in tensors.items() if tensor.dtype == FP8.kind and tensor.ndim == 2)
    numbers = tensors[name].view(torch.uint8).clone()
    numbers[1, 1] = 0x7F
    save_file({**tensors, name: numbers.view(FP8.kind)}, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match="holds NaN or infinite numbers"):
        loaded(tmp_path / "nan.safetensors", one)


@pytest.mark.parametrize(("kind", "prefix"), [("Q8_0", "model.diffusion_model."), ("Q4_0", "")])
def test_gguf(plain, tmp_path, kind, prefix):
    name, components, source = plain
    file = to_gguf(source, tmp_path / "model.gguf", kind, lambda own: prefix + own)
    files = find_model_files(str(file), name, str(components))
    assert (files.family.name, files.name, files.is_quantised) == (name, "model", True)
    model, exact = loaded(file, plain), weights_of(loaded(source, plain))
    held = {layer: m for layer, m in model.named_modules() if isinstance(m, HeldLinear)}
    assert held and all(isinstance(layer.form, Ggml) and kind in layer.form.name for layer in held.values())
    assert all(layer.held.dtype == torch.uint8 and type(layer.held) is torch.nn.Parameter for layer in held.values())
    for layer, weight in weights_of(model).items():
        error = float((weight - exact[layer]).norm() / exact[layer].norm())
        assert error < {"Q8_0": 0.01, "Q4_0": 0.13}[kind] if layer in held else error == 0, layer
    x = torch.randn(2, next(iter(held.values())).in_features, requires_grad=True)
    next(iter(held.values()))(x).sum().backward()
    assert bool(x.grad.any())


def test_a_gguf_tells_its_family(one, tmp_path):
    name, components, source = one
    file = to_gguf(source, tmp_path / "model.gguf")
    assert find_model_files(str(file), components_from=str(components)).family.name == name
    wrong = next(other for other in KINDS if other != name)
    with pytest.raises(UserError, match=f'model_type = "{wrong}", but .*model.gguf is {FAMILIES[name].title}'):
        find_model_files(str(file), wrong, str(components))


def test_a_gguf_of_something_else_is_refused(pipelines, tmp_path):
    save_file({"blk.0.attn_q.weight": torch.zeros(32, 32)}, tmp_path / "llm.safetensors")
    file = to_gguf(tmp_path / "llm.safetensors", tmp_path / "llm.gguf")
    with pytest.raises(UserError, match=r"llm.gguf is not a checkpoint of .*first tensor is blk\.0\.attn_q\.weight"):
        find_model_files(str(file), components_from=str(pipelines["sd3"]))


def test_a_gguf_is_not_quantised_again(one, tmp_path):
    name, components, source = one
    file = to_gguf(source, tmp_path / "model.gguf")
    with pytest.raises(UserError, match=r'model.gguf is quantised already: remove quantize = "int8"'):
        find_model(str(file), name, str(components), device=CPU, quantize="int8")
    assert find_model(str(file), name, str(components), device=CPU).load_transformer() is not None


def test_a_folder_that_was_saved_quantised_is_not_quantised_again(one, tmp_path):
    shutil.copytree(one[1], tmp_path / "model")
    file = tmp_path / "model" / "transformer" / "config.json"
    config = {**json.loads(file.read_text(encoding="utf-8")), "quantization_config": {"quant_method": "bitsandbytes"}}
    file.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=r'model is quantised already: remove quantize = "fp8"'):
        find_model(str(tmp_path / "model"), None, None, device=CPU, quantize="fp8")


def test_the_package_for_gguf_is_named(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="GGUF files need the package gguf: pip install gguf"):
        find_model_files(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize("ending", [".weight_scale_2", None])
def test_number_formats_that_cannot_be_trained_on_are_named(pipelines, tmp_path, ending):
    source = to_single_file("z_image", ALL["z_image"]().transformer, tmp_path / "plain.safetensors")
    tensors = load_file(source)
    name = "layers.0.feed_forward.w1.weight"
    tensors[name] = tensors[name].to(torch.uint8)
    if ending:
        tensors[name.removesuffix(".weight") + ending] = torch.ones(1)
    save_file(tensors, tmp_path / "nvfp4.safetensors")
    files = find_model_files(str(tmp_path / "nvfp4.safetensors"), "z_image", str(pipelines["z_image"]))
    with pytest.raises(UserError, match=r"nvfp4.safetensors: layers\.0\..*w1\.weight is in a number format"):
        load_transformer(files, torch.float32)
