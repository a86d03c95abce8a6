"""PEFT's own LoKr, LoHa, LoRA and DoRA files: read, they are the change and the velocity of PEFT's own layers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lycoris_utils import LycorisLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from tiny_lora import build, layout, save, velocity

from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Lora

TARGETS = ["layers.0.attention.to_q", "layers.1.feed_forward.w2", "layers.1.feed_forward.w1", "layers.1.attention.to_k"]
PATTERNS = {"rank_pattern": {TARGETS[0]: 3}, "alpha_pattern": {"attention.to_k": 7.0, TARGETS[1]: 1.0}}
KINDS = {
    "LoKr, second factored": LoKrConfig(r=1, alpha=8),
    "LoKr, both factored": LoKrConfig(r=1, alpha=4, decompose_both=True),
    "LoKr, factor 2": LoKrConfig(r=2, alpha=1, decompose_factor=2),
    "LoKr, factor 4": LoKrConfig(r=3, alpha=16, decompose_factor=4, decompose_both=True),
    "LoKr, both whole": LoKrConfig(r=64, alpha=16),
    "LoKr, patterns": LoKrConfig(r=2, alpha=8, decompose_factor=4, **PATTERNS),
    "LoHa": LoHaConfig(r=2, alpha=8, use_effective_conv2d=True),
    "LoHa, patterns": LoHaConfig(r=2, alpha=8, **PATTERNS),
    "LoRA, patterns": LoraConfig(r=2, lora_alpha=8, init_lora_weights=False, **PATTERNS),
    "rsLoRA": LoraConfig(r=3, lora_alpha=8, use_rslora=True, init_lora_weights=False),
    "DoRA": LoraConfig(r=3, lora_alpha=8, use_dora=True, init_lora_weights=False),
    "DoRA, patterns": LoraConfig(r=3, lora_alpha=8, use_dora=True, init_lora_weights=False, **PATTERNS),
}


@pytest.fixture(params=KINDS)
def config(request) -> PeftConfig:
    return KINDS[request.param]


def adapted_by_peft(config: PeftConfig) -> torch.nn.Module:
    """The tiny model with the adapter as PEFT makes it, every parameter of it random."""
    config.target_modules = "|".join(TARGETS)
    model = build("z_image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = inject_adapter_in_model(config, model, "default")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                for parameter_name, parameter in module.named_parameters():
                    if "base_layer" not in parameter_name:
                        size = 1.0 if "magnitude" in parameter_name else 0.3
                        parameter.copy_(size * (1 + torch.rand(parameter.shape, generator=generator)))
    return model.eval()


def saved_by_peft(config: PeftConfig, model: torch.nn.Module, folder: Path) -> Path:
    config.save_pretrained(folder)
    state = get_peft_model_state_dict(model, state_dict=model.state_dict(), adapter_name="default")
    save(folder / "adapter_model.safetensors", {f"base_model.model.{key}": value for key, value in state.items()})
    return folder


def test_the_velocity_is_that_of_pefts_layers(config, tmp_path):
    model = adapted_by_peft(config)
    lora = read_lora(saved_by_peft(config, model, tmp_path), layout("z_image"))
    assert sorted(lora.modules) == sorted(TARGETS)
    adapters = Adapters(build("z_image"))
    with torch.no_grad():
        base, expected = velocity("z_image", adapters.transformer), velocity("z_image", model)
        adapters.add("teacher", lora)
        adapters.activate("teacher")
        ours = velocity("z_image", adapters.transformer)
    assert (ours - expected).norm() < 1e-5 * expected.norm()
    assert (base - expected).norm() > 0.01 * expected.norm()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("Lo")])
@pytest.mark.parametrize("place", ["folder", "diffusers' metadata entry"])
def test_the_change_is_pefts_delta_weight(kind, place, tmp_path):
    config = KINDS[kind]
    model = adapted_by_peft(config)
    file = saved_by_peft(config, model, tmp_path)
    if place != "folder":  # diffusers writes the settings into the file, with the name of the part of the model
        settings = {f"transformer.{key}": value for key, value in json.loads(_settings(file)).items()}
        entry = {"lora_adapter_metadata": json.dumps(settings)}
        file = save(tmp_path / "pytorch_lora_weights.safetensors", load_file(file / "adapter_model.safetensors"), entry)
    lora = read_lora(file, layout("z_image"))
    for name in TARGETS:
        layer = model.get_submodule(name)
        torch.testing.assert_close(lora.modules[name].delta(), layer.get_delta_weight("default"), rtol=1e-5, atol=1e-6)


def _settings(folder: Path) -> str:
    return (folder / "adapter_config.json").read_text(encoding="utf-8")


def test_an_alpha_unequal_to_the_rank_is_not_lost(tmp_path):
    """PEFT calls it `alpha` here, and divides by its own rank where a factor is whole, too."""
    config = KINDS["LoKr, both whole"]
    model = adapted_by_peft(config)
    lora = read_lora(saved_by_peft(config, model, tmp_path), layout("z_image"))
    layer = model.get_submodule(TARGETS[0])
    assert isinstance(layer, LycorisLayer) and layer.scaling["default"] == 0.25
    whole = torch.kron(layer.lokr_w1["default"], layer.lokr_w2["default"])
    torch.testing.assert_close(lora.modules[TARGETS[0]].delta(), 0.25 * whole)


def test_pefts_lokr_stays_a_product(tmp_path):
    config = KINDS["LoKr, both whole"]
    lora: Lora = read_lora(saved_by_peft(config, adapted_by_peft(config), tmp_path), layout("z_image"))
    assert all(sum(t.numel() for t in c.tensors()) < c.shape[0] * c.shape[1] / 3 for c in lora.modules.values())
