"""Runs on a quantised base: teachers and student are as on any other, and a state belongs to its quantisation."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from danceopd_ext.engine.fields import same_weights
from danceopd_ext.lora import adapters as adapters_module
from danceopd_ext.models import decoding, quantising
from danceopd_ext.models.held_linear import PACKINGS, HeldLinear
from danceopd_ext.toolkits.native import train as train_module
from tests.tiny.presets import write_preset
from tests.tiny.quantised_files import to_float8_file, to_gguf
from tests.tiny.single_file import to_single_file
from tests.toolkits.runs import BASE, QUICK, log_of, says

#: 4 steps that save a state halfway
LONG = {"max_train_steps": 4, "rollout_steps": 2, "save_every_n_steps": 2, "save_state": True}


@pytest.fixture
def built(monkeypatch):
    """The fields of the last run."""
    kept = []
    build = train_module.build_fields

    def keep(*arguments):
        kept.append(build(*arguments))
        return kept[-1]

    monkeypatch.setattr(train_module, "build_fields", keep)
    return kept


@pytest.fixture(scope="module")
def teachers(pipelines, loras, tmp_path_factory):
    """The base, a LoRA, and a checkpoint of its own weights."""
    tuned = tmp_path_factory.mktemp("tuned") / "model"
    shutil.copytree(pipelines["z_image"], tuned)
    weights = next((tuned / "transformer").glob("*.safetensors"))
    save_file({name: tensor * 1.1 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    return {**BASE, "style": {"lora": str(loras["z_image", 0])}, "real": {"checkpoint": str(tuned)}}


@pytest.mark.parametrize("word", ["nf4"])
def test_a_run_and_its_continuation_are_one(pipelines, teachers, launch, built, tmp_path, word):
    """The LoRA of a run that was continued has the bits of one that was not; the base has its own before and after."""
    path = write_preset(tmp_path / "whole", pipelines["z_image"], teachers, **LONG, quantize=word)
    whole = launch(path, "--gradient_checkpointing", "true")
    transformer = built[0].adapters.transformer
    layers = [module for module in transformer.modules() if isinstance(module, HeldLinear)]
    assert layers and {layer.form for layer in layers} == {PACKINGS[word]}
    trained = {id(parameter) for parameter in built[0].adapters.student_parameters()}
    assert {id(p) for p in transformer.parameters() if p.requires_grad} == trained
    assert {parameter.dtype for parameter in built[0].adapters.student_parameters()} == {torch.float32}
    assert {p.dtype for p in built[0].adapters.state_dict("teacher_style").values()} == {torch.float32}
    checkpoint = built[0].unguided_teachers["real"].transformer
    assert sum(isinstance(module, HeldLinear) for module in checkpoint.modules()) == len(layers)

    resumed = ("--output_dir", tmp_path / "again", "--resume", whole / "fused-step00000002-state")
    launch(path, "--gradient_checkpointing", "true", *resumed)
    one, other = (load_file(folder / "fused.safetensors") for folder in (whole, tmp_path / "again"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert any(bool(tensor.any()) for name, tensor in one.items() if "up" in name or "_B" in name)
    assert same_weights(built[0].adapters.transformer, built[1].adapters.transformer)


def test_its_loss_is_near_that_of_the_whole_base(pipelines, teachers, launch, tmp_path):
    losses = {}
    for word in (None, "int8"):
        path = write_preset(tmp_path / f"{word}", pipelines["z_image"], teachers, **QUICK, quantize=word)
        losses[word] = [entry["loss"] for entry in log_of(launch(path))]
    assert losses["int8"] != losses[None]
    assert losses["int8"] == pytest.approx(losses[None], rel=0.1)


def test_the_metadata_tells_it(pipelines, launch, tmp_path):
    path = write_preset(
        tmp_path, pipelines["z_image"], {"guided": {"guidance_scale": 2.0}}, fp8_base=True,
        quantize_text_encoders="int8", **QUICK,
    )  # fmt: skip
    with safe_open(launch(path) / "fused.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_fp8_base"] == "true"
    assert metadata["ss_danceopd_quantize"] == "fp8"
    assert metadata["ss_danceopd_quantize_text_encoders"] == "int8"
    plain = launch(write_preset(tmp_path / "plain", pipelines["z_image"], BASE, **QUICK))
    with safe_open(plain / "fused.safetensors", "pt") as file:
        assert not [key for key in file.metadata() if "quantize" in key or "fp8" in key]


def test_a_state_is_not_continued_on_another_quantisation(pipelines, launch, refused, capsys, tmp_path):
    def preset(**keys):
        return write_preset(tmp_path / "run", pipelines["z_image"], BASE, save_state=True, rollout_steps=2, **keys)

    state = launch(preset(max_train_steps=1)) / "fused-state"
    for words, told in (
        ({"quantize": "int8"}, 'quantize was null and is "int8"'),
        ({"fp8_base": True}, 'quantize was null and is "fp8"'),
        ({"quantize_text_encoders": "fp8"}, 'quantize_text_encoders was null and is "fp8"'),
    ):
        says(refused(preset(resume=str(state), **words)), "fused-state (resume)", told)
    # a state of an earlier version, which had no quantisation
    facts = json.loads((state / "state.json").read_text(encoding="utf-8"))
    for key in ("quantize", "quantize_text_encoders"):
        del facts["identity"][key]
    (state / "state.json").write_text(json.dumps(facts), encoding="utf-8")
    says(refused(preset(resume=str(state), quantize="int8")), 'quantize was null and is "int8"')
    capsys.readouterr()
    launch(preset(resume=str(state), max_train_steps=2))
    assert "did not record" not in capsys.readouterr().out


def test_a_checkpoint_becomes_the_lora_that_it_is_of_the_whole_base(pipelines, teachers, launch, built, tmp_path):
    """Otherwise the LoRA would undo the base's rounding."""
    real = {"real": {**teachers["real"], "extract_rank": 4}}
    for word in (None, "nf4"):
        launch(write_preset(tmp_path / f"{word}", pipelines["z_image"], real, **QUICK, quantize=word))
    plain, quantised = (fields.adapters.state("teacher_real").modules for fields in built)
    assert plain.keys() == quantised.keys()
    for layer, change in plain.items():
        assert torch.equal(change.delta(), quantised[layer].delta()), layer


def test_a_checkpoint_that_is_the_base_is_still_found(pipelines, launch, capsys, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(pipelines["z_image"], copy)
    weights = next((copy / "transformer").glob("*.safetensors"))
    save_file(load_file(weights), weights, {"format": "pt", "other": "file"})
    teachers = {"real": {"checkpoint": str(copy)}}
    launch(write_preset(tmp_path / "run", pipelines["z_image"], teachers, **QUICK, quantize="int8"))
    assert "teacher real: this teacher changes nothing." in capsys.readouterr().out


def test_a_dora_measures_the_weight_that_is_there(pipelines):
    """Its ratio divides by the length of the base's rows: those of the unpacked weight."""
    layer = torch.nn.Linear(8, 4).requires_grad_(False)
    form = PACKINGS["nf4"]
    held = HeldLinear(form, form.pack(layer.weight), (4, 8), layer.bias, torch.float32)
    assert torch.equal(adapters_module.dequantize_module_weight(held), held.weight)


def test_previews_are_decoded_in_tiles(pipelines, launch, monkeypatch, tmp_path):
    sides, decode = [], AutoencoderKL.tiled_decode
    tiled_decode = lambda self, z, **more: sides.append(z.shape) or decode(self, z, **more)  # noqa: E731
    monkeypatch.setattr(AutoencoderKL, "tiled_decode", tiled_decode)
    monkeypatch.setattr(decoding, "TILE", 16)
    (tmp_path / "samples.txt").write_text("a cat --w 32 --h 32 --s 2\n", encoding="utf-8")
    keys = {"sample_prompts": str(tmp_path / "samples.txt"), "sample_every_n_steps": 2, **QUICK}
    for tiled in (False, True):
        launch(write_preset(tmp_path / f"{tiled}", pipelines["z_image"], BASE, vae_tiling=tiled, **keys))
        assert bool(sides) == tiled


def test_what_cannot_be_is_refused_before_anything_is_loaded(changed, refused, monkeypatch):
    says(refused(changed(quantize="nf-4")), 'takes "nf4" or "int8" or "fp8"', 'Did you mean "nf4"?')
    find = quantising.find_spec
    monkeypatch.setattr(quantising, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    for key in ("quantize", "quantize_text_encoders"):
        says(refused(changed(**{key: "nf4"})), f'{key} = "nf4" needs bitsandbytes: pip install bitsandbytes')


def test_text_encoders_have_encodings_of_their_own(pipelines, launch, tmp_path):
    keys = {"text_encoder_cache_dir": str(tmp_path / "cache"), **QUICK}
    counts = []
    for word in (None, "int8", "int8"):
        folder = tmp_path / f"{len(counts)}"
        launch(write_preset(folder, pipelines["z_image"], BASE, quantize_text_encoders=word, **keys))
        counts.append(sum(path.is_file() for path in (tmp_path / "cache").rglob("*")))
    assert counts[1] == 2 * counts[0] and counts[2] == counts[1]


@pytest.fixture(scope="module")
def files(pipelines, tmp_path_factory):
    """The tiny Z-Image as a single file: as it is, in float8 with scales, and as GGUF."""
    folder = tmp_path_factory.mktemp("files")
    transformer = ZImageTransformer2DModel.from_pretrained(pipelines["z_image"], subfolder="transformer")
    plain = to_single_file("z_image", transformer, folder / "plain.safetensors")
    return {
        "plain": plain,
        "float8": to_float8_file(plain, folder / "float8.safetensors"),
        "gguf": to_gguf(plain, folder / "q8.gguf"),
    }


@pytest.mark.parametrize("kind", ["float8", "gguf"])
def test_a_file_that_is_quantised_already_is_the_base(pipelines, files, teachers, launch, built, tmp_path, kind):
    losses = {}
    for name in ("plain", kind):
        keys = {"components_from": str(pipelines["z_image"]), "train_batch_size": 2, **QUICK}
        style = {"style": teachers["style"]}
        losses[name] = [
            entry["loss"] for entry in log_of(launch(write_preset(tmp_path / name, files[name], style, **keys)))
        ]
    assert losses[kind] != losses["plain"]
    assert losses[kind] == pytest.approx(losses["plain"], rel=0.2)
    assert any(isinstance(module, HeldLinear) for module in built[1].adapters.transformer.modules())
    assert {parameter.dtype for parameter in built[1].adapters.student_parameters()} == {torch.float32}


def test_no_lora_is_extracted_from_what_is_quantised(pipelines, files, teachers, refused, tmp_path):
    keys = {"components_from": str(pipelines["z_image"]), **QUICK}
    real = {"real": {"checkpoint": teachers["real"]["checkpoint"], "extract_rank": 4}}
    says(refused(write_preset(tmp_path, files["float8"], real, **keys)), "teachers.real", "float8.safetensors is quant")
    real["real"]["checkpoint"] = str(files["gguf"])
    says(refused(write_preset(tmp_path, files["plain"], real, **keys)), "teachers.real", "q8.gguf is quantised", "bf16")
