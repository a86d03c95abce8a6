import json
import shutil

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from danceopd_ext.errors import UserError
from danceopd_ext.models.decoding import decode
from danceopd_ext.models.loading import (
    find_source,
    load_layout,
    load_scheduler,
    load_text_pipeline,
    load_transformer,
    load_vae,
)
from danceopd_ext.models.registry import FAMILIES
from tests.tiny.pipelines import PIPELINES, save_pipeline
from tests.tiny.single_file import to_single_file


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request, tmp_path_factory):
    return save_pipeline(request.param, tmp_path_factory.mktemp(request.param) / "model")


def family_of(folder):
    return find_source(str(folder)).family


def same_weights(one, other):
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_folder_gives_every_part(folder):
    source = find_source(str(folder))
    assert source.name == "model"
    assert source.vae_scale_factor == 2
    transformer = load_transformer(source, torch.float32)
    expected = PIPELINES[source.family.name]()
    assert same_weights(transformer, expected.transformer)
    assert not transformer.training
    assert not any(p.requires_grad for p in transformer.parameters())
    pipeline = load_text_pipeline(source, torch.float32, "cpu")
    assert pipeline.transformer is None
    assert pipeline.vae is None
    text = source.family.encode_prompts(pipeline, ["a cat"])[0]["embeds"]
    assert torch.equal(text, source.family.encode_prompts(expected, ["a cat"])[0]["embeds"])
    assert load_scheduler(source).config.shift == 3.0
    assert {path.name for path in source.text_files} >= {"tokenizer", "text_encoder"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_precision(folder, dtype):
    assert load_transformer(find_source(str(folder)), dtype).dtype == dtype


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_single_file_gives_the_same_transformer(folder, tmp_path, prefix):
    family = family_of(folder)
    original = PIPELINES[family.name](seed=5).transformer
    file = to_single_file(family.name, original, tmp_path / "my_model.safetensors", prefix)
    source = find_source(str(file), components_from=str(folder))
    assert (source.family, source.name) == (family, "my_model")
    loaded = load_transformer(source, torch.float32)
    state, expected = loaded.state_dict(), original.state_dict()
    assert state.keys() == expected.keys()
    worst = max(float((state[k] - expected[k]).abs().max()) for k in state)
    assert worst == 0


def test_layout_knows_shapes_without_weights(folder):
    layout, config = load_layout(find_source(str(folder)))
    transformer = PIPELINES[family_of(folder).name]().transformer
    assert dict(layout.shapes) == dict(family_of(folder).layout(transformer).shapes)
    assert config["in_channels"] == 4


def test_pictures_are_decoded_as_the_pipeline_does(folder):
    source = find_source(str(folder))
    pipeline = PIPELINES[source.family.name]()
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def draw(output_type):
        size = {"width": 32, "height": 32, "num_inference_steps": 2}
        return pipeline("a cat", **size, guidance_scale=1.0, latents=noise, output_type=output_type).images

    latents, expected = draw("latent"), draw("np")
    found = decode(load_vae(source, torch.float32), latents)
    assert abs(found / 255.0 - expected).max() < 0.5 / 255 + 1e-6


def error(where, *arguments, **more):
    with pytest.raises(UserError) as caught:
        find_source(str(where), *arguments, **more)
    return str(caught.value)


def test_wrong_model_type_is_named(folder):
    wrong = next(name for name in FAMILIES if name != family_of(folder).name)
    assert family_of(folder).name in error(folder, wrong)


def test_missing_and_foreign_models(tmp_path, folder):
    assert "not found" in error(tmp_path / "nothing" / "here" / "model")
    (tmp_path / "empty").mkdir()
    assert "model_index.json" in error(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    assert "StableDiffusionXLPipeline" in error(tmp_path / "other")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text("{")
    assert "model_index.json" in error(tmp_path / "broken")
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "unknown.safetensors")
    assert "conv.weight" in error(tmp_path / "unknown.safetensors", components_from=str(folder))


def test_damaged_and_dangerous_files(tmp_path, folder):
    file = to_single_file(
        family_of(folder).name, PIPELINES[family_of(folder).name]().transformer, tmp_path / "m.safetensors"
    )
    file.write_bytes(file.read_bytes()[:-100])
    assert "m.safetensors" in error(file, components_from=str(folder))
    (tmp_path / "old.ckpt").write_bytes(b"anything")
    assert ".ckpt" in error(tmp_path / "old.ckpt", components_from=str(folder))


def test_half_a_transformer_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    weights = next((tmp_path / "model" / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(UserError, match="transformer"):
        load_transformer(find_source(str(tmp_path / "model")), torch.float32)


def test_hub_id_that_cannot_be_reached(monkeypatch):
    def refuse(*arguments, **more):
        raise OSError("no connection")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", refuse)
    message = error("someone/some-model")
    assert "someone/some-model" in message
    assert "no connection" in message


def test_hub_id_is_downloaded(monkeypatch, folder):
    asked = []

    def download(name, **more):
        asked.append((name, more))
        return str(folder)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
    source = find_source("someone/some-model")
    assert source.name == "someone/some-model"
    assert asked == [("someone/some-model", {"use_safetensors": True})]
