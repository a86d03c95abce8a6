"""A family is added by one file and one line of the registry, and is then known everywhere and trained."""

from __future__ import annotations

import typing

import pytest
import torch
from safetensors.torch import save_file

from danceopd_ext.config.fields import key_types
from danceopd_ext.config.model_types import explain_model_type
from danceopd_ext.config.schema import SECTIONS
from danceopd_ext.errors import UserError
from danceopd_ext.lora.families import guess_family
from danceopd_ext.lora.file_summary import describe
from danceopd_ext.lora.lora_file import open_lora_file
from danceopd_ext.lora.read import read_lora
from danceopd_ext.models.decoding import decode, encode
from danceopd_ext.models.loading import load_transformer, load_vae
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.models.registry import CLASSES, FAMILIES, NAMES, family_of_checkpoint, names_of
from tests.tiny import new_family
from tests.tiny.loras import layout_of, write_random_lora
from tests.tiny.presets import write_preset
from tests.toolkits.runs import QUICK, log_of


@pytest.fixture
def model(monkeypatch, tmp_path):
    """The line of the registry, and a tiny model of the family."""
    monkeypatch.setitem(CLASSES, "lumina_2", "tests.tiny.new_family:Lumina2")
    return new_family.save_pipeline(tmp_path / "model")


def test_it_is_trained(model, launch, tmp_path):
    style = write_random_lora(tmp_path / "style.safetensors", model, 1, "diffusers")
    (tmp_path / "sample.txt").write_text("a red cat --w 16 --h 16 --d 1 --s 2\n")
    preset = write_preset(
        tmp_path / "run", model, {"base": {}, "style": {"lora": str(style)}}, **{**QUICK, "max_train_steps": 4},
        model_type="lumina_2", sample_every_n_steps=4, sample_prompts=str(tmp_path / "sample.txt"),
    )  # fmt: skip
    output = launch(preset)
    losses = {entry["route"]: entry["loss"] for entry in log_of(output)}
    assert losses["style"] > 0
    assert list((output / "sample").glob("*.png"))
    lora = read_lora(output / "fused.safetensors", layout_of(model))
    assert any(bool(change.up_OR.any()) for change in lora.modules.values())
    assert open_lora_file(output / "fused.safetensors").metadata["modelspec.architecture"] == "lumina-2/lora"


def test_its_words_are_known(model):
    words = typing.get_args(typing.get_args(key_types(SECTIONS["model"])["model_type"])[0])
    assert words[-1] == "lumina_2"
    assert explain_model_type("Lumina-Next", "native") == ' Did you mean "lumina_2"?'
    assert explain_model_type("lumina_2", "musubi-tuner").startswith(' lumina_2 is trained with toolkit = "native"')
    with pytest.raises(UserError, match=r"Lumina Image 2.0 \(new\) \(Lumina2Pipeline\)"):
        (model / "model_index.json").write_text('{"_class_name": "NoPipeline"}')
        find_model_files(str(model))


def test_its_files_are_known(model, tmp_path):
    assert find_model_files(str(model)).family is FAMILIES["lumina_2"] is NAMES["lumina_2"] is names_of("lumina_2")
    transformer = load_transformer(find_model_files(str(model)), torch.float32)
    assert family_of_checkpoint(transformer.state_dict()).name == "lumina_2"
    file = write_random_lora(tmp_path / "style.safetensors", model, 1, "diffusers")
    layouts = {name: names.reference_layout() for name, names in NAMES.items()}
    assert dict(describe(open_lora_file(file), layouts))["family"] == "Lumina Image 2.0 (new)"
    assert guess_family(["transformer.layers.0.attn.to_q.lora_A.weight"]) == "Lumina Image 2.0 (new)"
    save_file({"joint_blocks.0.x.lora_A.weight": torch.zeros(1, 1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"no key fits Lumina Image 2.0 \(new\).*It looks like a LoRA for Stable"):
        read_lora(tmp_path / "other.safetensors", layout_of(model))


def test_its_latents_have_its_own_scale(model):
    """Although other families have the same VAE."""
    vae = load_vae(find_model_files(str(model)), torch.float32)
    pixels = torch.rand(1, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        plain = vae.encode(pixels).latent_dist.mode()
        assert torch.equal(encode(vae, pixels), plain * 2)
        drawn = vae.decode(plain, return_dict=False)[0].clamp(-1, 1)
    expected = ((drawn + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert (decode(vae, plain * 2) == expected).all()
