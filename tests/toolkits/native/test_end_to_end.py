"""From preset to LoRA file, for both families: it learns, and the file is what was trained."""

from __future__ import annotations

import warnings
from statistics import mean

import diffusers
import pytest
import torch
from diffusers.utils import logging as diffusers_logging

from danceopd_ext.models.family import TextConditions
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.models.text_pipeline import load_text_pipeline
from danceopd_ext.toolkits.native import train as train_module
from tests.tiny.loras import write_random_lora
from tests.tiny.presets import write_preset
from tests.toolkits.runs import log_of

#: what the tiny models can learn in a hundred steps. A random Z-Image hardly looks at its prompt, so its teachers
#: change what the prompt becomes; the layers of SD3 are the default ones.
SETTINGS = {
    "sd3": {
        "endings": None,
        "size": 0.3,
        "keys": {"learning_rate": 1e-2},
    },
    "z_image": {
        "endings": ("cap_embedder.1", "context_refiner.0.feed_forward.w2"),
        "size": 1.0,
        "keys": {
            "learning_rate": 3e-3,
            "lora_targets": ["cap_embedder.1", "to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3"],
        },
    },
}


@pytest.fixture
def spied(monkeypatch):
    """The fields of the last run, which are otherwise gone when it ends."""
    kept = {}

    def keep(*arguments):
        kept["fields"] = build(*arguments)
        return kept["fields"]

    build = train_module.build_fields
    monkeypatch.setattr(train_module, "build_fields", keep)
    return kept


@pytest.mark.parametrize("family", ["sd3", "z_image"])
def test_two_teachers_become_one_lora(pipelines, launch, spied, caplog, tmp_path, family):
    model, settings = pipelines[family], SETTINGS[family]
    teachers = {
        name: {"lora": str(write_random_lora(
            tmp_path / f"{name}.safetensors", model, seed, dialect, size=settings["size"], endings=settings["endings"]
        ))}
        for name, seed, dialect in (("one", 1, "kohya"), ("two", 2, "diffusers"))
    }  # fmt: skip
    preset = write_preset(
        tmp_path, model, teachers, max_train_steps=100, network_dim=16, train_batch_size=4,
        gradient_accumulation_steps=1, rollout_steps=2, lr_scheduler="cosine", lr_warmup_steps=0.1, **settings["keys"],
    )  # fmt: skip

    output = launch(preset)

    log = log_of(output)
    for route in teachers:
        losses = [entry["loss"] for entry in log if entry["route"] == route]
        assert mean(losses[-10:]) < mean(losses[:3]) / 5
    check_diffusers_gives_the_student(family, model, output / "fused.safetensors", spied["fields"].student, caplog)


def check_diffusers_gives_the_student(family, model, file, student, caplog):
    source = find_model_files(str(model))
    pipeline = getattr(diffusers, source.family.pipeline_class).from_pretrained(model)
    before = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    diffusers_logging.set_verbosity_warning()
    diffusers_logging.enable_propagation()
    try:
        with warnings.catch_warnings(record=True) as caught, caplog.at_level("WARNING"):
            warnings.simplefilter("always")
            pipeline.load_lora_weights(str(file))
    finally:
        diffusers_logging.disable_propagation()
    told = [str(w.message) for w in caught] + [record.getMessage() for record in caplog.records]
    assert not [line for line in told if "unexpected keys" in line or "missing keys" in line]

    with torch.no_grad():
        encoded = source.family.encode_prompts(load_text_pipeline(source, torch.float32, "cpu"), ["red cat", "a tree"])
        condition = TextConditions(encoded, encoded[0])
        latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
        sigma = torch.tensor([0.9, 0.3])
        trained = student(latents, sigma, condition)
        loaded = source.family.velocity(pipeline.transformer, latents, sigma, condition).float()
        pipeline.unload_lora_weights()
        bare = source.family.velocity(pipeline.transformer, latents, sigma, condition).float()
    assert all(value.equal(before[name]) for name, value in pipeline.transformer.state_dict().items())
    assert (loaded - trained).norm() / trained.norm() < 1e-4
    assert (bare - trained).norm() / trained.norm() > 1e-2, "the LoRA changes nothing: the comparison is empty"
