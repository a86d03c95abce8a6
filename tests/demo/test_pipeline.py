"""The shipped pipeline and LoRAs: size, format, words, and that they draw what they were trained to draw."""

import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from danceopd_ext.demo import LORAS, PIPELINE, PROMPTS
from danceopd_ext.demo.score import encode_captions, encode_images, generate, score
from danceopd_ext.demo.world import SKILLS, caption, read_scenes, render, shows
from danceopd_ext.method import sample_noise
from danceopd_ext.models.decoding import decode


def test_pipeline_is_small_and_free_of_pickles():
    files = [file for file in PIPELINE.rglob("*") if file.is_file()]
    assert 0 < sum(file.stat().st_size for file in files) <= 8 * 2**20
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".jinja"}


def test_pipeline_has_the_classes_of_the_large_model(pipeline):
    names = {name: type(part).__name__ for name, part in pipeline.components.items()}
    assert names["transformer"] == "ZImageTransformer2DModel"
    assert names["vae"] == "AutoencoderKL"
    assert names["text_encoder"] == "Qwen3Model"
    assert names["scheduler"] == "FlowMatchEulerDiscreteScheduler"


def test_every_caption_is_made_of_known_words_and_fits_one_block_of_tokens(pipeline):
    captions = [caption(scene) for skill in SKILLS.values() for scene in skill.scenes]
    tokenizer = pipeline.tokenizer
    for text in captions:
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        ids = tokenizer(chat)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= 32
    assert tokenizer.unk_token_id in tokenizer("a red elephant")["input_ids"]


def test_prompts_are_padded_to_the_length_asked_for(pipeline):
    batch = pipeline.tokenizer(["a red circle", "a"], padding="max_length", max_length=20, return_tensors="pt")
    assert batch.input_ids.shape == (2, 20)
    assert batch.attention_mask.sum(dim=1).tolist() == [3, 1]


def test_different_captions_have_different_embeddings(pipeline):
    one, other = (item["embeds"] for item in encode_captions(pipeline, ["a red circle", "a blue circle"]))
    assert one.shape == other.shape
    assert (one - other).abs().max() > 0.5
    assert torch.equal(one[:3], other[:3])  # the text before the word that differs


def test_vae_keeps_every_scene_readable(pipeline):
    scenes = [scene for skill in SKILLS.values() for scene in skill.scenes[::5]]
    images = decode(pipeline.vae, encode_images(pipeline, np.stack([render(scene) for scene in scenes])))
    for scene, (read, error) in zip(scenes, read_scenes(images), strict=True):
        assert shows(read, error, scene)
        assert error < 0.04


def test_latents_have_about_zero_mean_and_unit_variance(pipeline):
    latents = encode_images(pipeline, np.stack([render(scene) for scene in SKILLS["single"].scenes]))
    assert abs(latents.mean()) < 0.3
    assert 0.7 < latents.std() < 1.3


def test_fast_sampler_draws_what_the_pipeline_draws(pipeline):
    texts = [SKILLS["single"].prompts("test")[0][0], SKILLS["count"].prompts("test")[0][0]]
    fast = generate(pipeline, texts, seed=3, steps=4, guidance_scale=2.0, batch=1)
    shape = (pipeline.transformer.config.in_channels, 8, 8)
    slow = pipeline(
        list(texts),
        height=32,
        width=32,
        num_inference_steps=4,
        guidance_scale=1.0,  # the pipeline counts one less than the usual scale
        latents=sample_noise(3, 0, [0, 1], shape),
        output_type="np",
    ).images
    assert abs(fast / 255 - slow).max() < 0.01


def test_base_draws_its_own_skills_and_not_those_of_teachers(pipeline):
    result = score(pipeline, limit=16)
    assert min(result["single"], result["count"]) >= 0.9
    assert max(result["hollow"], result["checkered"]) <= 0.1


@pytest.mark.parametrize("teacher", LORAS)
def test_teacher_loads_without_warnings_and_draws_its_own_skill(pipeline, teacher):
    file = LORAS[teacher]
    assert all(name.startswith("transformer.") for name in load_file(file))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=teacher)
    loaded = {name for name, _ in pipeline.transformer.named_parameters() if "lora_" in name}
    assert len(loaded) == len(load_file(file))
    result = score(pipeline, limit=16)
    other = next(name for name in LORAS if name != teacher)
    assert result[teacher] >= 0.9
    assert result[other] <= 0.1
    assert min(result["single"], result["count"]) <= 0.7


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("strength", [0.5, 1.0], ids=["average", "sum"])
def test_merging_the_teachers_loses_skills_of_base_and_teachers(pipeline, strength):
    for name, file in LORAS.items():
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    pipeline.set_adapters(list(LORAS), [strength] * 2)
    result = score(pipeline, limit=8)
    assert max(result["single"], result["count"], result["hollow"]) <= 0.5


def test_prompt_files_are_the_train_split():
    for owner, skills in {"base": ("single", "count"), "hollow": ("hollow",), "checkered": ("checkered",)}.items():
        lines = PROMPTS[owner].read_text(encoding="utf-8").splitlines()
        assert lines == [text for name in skills for text, _ in SKILLS[name].prompts("train")]
