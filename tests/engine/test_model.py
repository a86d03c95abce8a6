"""The model as training, previews and evaluation see it: files, sizes, noise levels, encodings, pictures."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from danceopd_ext.config import load_preset
from danceopd_ext.data.plan import Prompt
from danceopd_ext.engine.conditions import Conditions, Encodings
from danceopd_ext.engine.drawing import draw
from danceopd_ext.engine.fields import AdapterField
from danceopd_ext.engine.model import find_model
from danceopd_ext.engine.prompts import EMPTY, encode_missing, open_prompt_cache
from danceopd_ext.errors import UserError
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.models.decoding import NotFinite
from tests.tiny.presets import write_preset

CPU = torch.device("cpu")


@pytest.fixture
def model(pipelines):
    return find_model(str(pipelines["sd3"]), None, None, device=CPU)


def test_the_noise_levels_of_a_size_are_the_schedulers(model):
    """As diffusers' scheduler has them, and made once."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(model.files.components, subfolder="scheduler")
    scheduler.set_timesteps(4)
    assert torch.allclose(model.sigmas(16, 16, 4), scheduler.sigmas)
    assert model.sigmas(16, 16, 4) is model.sigmas(16, 16, 4)


def test_a_merge_needs_the_configuration_alone(pipelines, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(pipelines["sd3"], folder)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    found = find_model(str(folder), None, None, device=CPU, check=False)
    assert found.layout.shapes == find_model(str(pipelines["sd3"]), None, None, device=CPU).layout.shapes
    with pytest.raises(UserError, match="no weights"):
        find_model(str(folder), None, None, device=CPU)


def test_a_fetched_model_is_checked_again(model, tmp_path):
    """A download may be incomplete, although the few files that came first were sound."""
    incomplete = tmp_path / "model"
    shutil.copytree(model.files.components, incomplete)
    (incomplete / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    files = dataclasses.replace(model.files, transformer=incomplete, components=incomplete)
    with pytest.raises(UserError, match="no weights"):
        model.fetched(lambda _: files)
    assert model.fetched(lambda files: files) == model


def test_training_and_evaluation_share_encoded_prompts(model, tmp_path):
    """One key for one model and precision: what one of them encoded the other finds."""
    prompts = [Prompt(EMPTY), Prompt("a red cat")]
    cache = open_prompt_cache(model, tmp_path, model.source_images())
    assert encode_missing(model, cache, prompts, print, "Free some disk space.") == 2
    again = open_prompt_cache(model, tmp_path, model.source_images())
    assert encode_missing(model, again, prompts, print, "Free some disk space.") == 0
    other = open_prompt_cache(dataclasses.replace(model, precision="bf16"), tmp_path, model.source_images())
    assert len(other.missing(prompts)) == 2


def test_a_field_draws_as_its_pipeline(model, pipelines, tmp_path):
    """The same noise, prompt and steps give the pipeline's picture."""
    from diffusers import StableDiffusion3Pipeline

    prompt = Prompt("red cat")
    cache = open_prompt_cache(model, tmp_path, model.source_images())
    encode_missing(model, cache, [Prompt(EMPTY), prompt], print, "")
    noise = torch.randn((1, *model.latent_shape(16, 16)), generator=torch.Generator().manual_seed(1))
    field = AdapterField(model.family, Adapters(model.load_transformer()), None, torch.no_grad)
    condition = Conditions(model, Encodings(cache)).of([prompt])
    ours = draw(field, model.load_vae(), noise, model.sigmas(16, 16, 3), condition)
    pipeline = StableDiffusion3Pipeline.from_pretrained(pipelines["sd3"])
    options = {"height": 16, "width": 16, "num_inference_steps": 3, "guidance_scale": 1.0, "output_type": "np"}
    theirs = pipeline("red cat", latents=noise, **options).images
    assert np.abs(ours / 255 - theirs).max() < 1.5 / 255


def test_a_field_that_breaks_draws_no_black_picture(model):
    def broken(latents, sigma, condition):
        return torch.full_like(latents, float("nan"))

    noise = torch.zeros((1, *model.latent_shape(16, 16)))
    with pytest.raises(NotFinite):
        draw(broken, model.load_vae(), noise, model.sigmas(16, 16, 1), [None])


def test_nothing_is_written_into_a_preset(pipelines, tmp_path):
    preset = load_preset(write_preset(tmp_path, pipelines["sd3"], {"base": {}}))
    for owner, name in (
        (preset, "notes"),
        (preset.optimizer, "optimizer_type"),
        (preset.danceopd.teachers["base"], "lora"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(owner, name, "other")
