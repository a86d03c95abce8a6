"""The shipped pipeline and LoRAs: size, format, words, and that they draw what they were trained to draw."""

import warnings

import numpy as np
import pytest
from safetensors.torch import load_file

from danceopd_ext.demo import FOLDER, LORAS, PIPELINE, PROMPTS
from danceopd_ext.demo.edits import EDIT_KINDS
from danceopd_ext.demo.kinds import kinds
from danceopd_ext.demo.omni_draw import (
    LONGEST_TEXT,
    PICTURE_SIZE,
    draw,
    encode_latents,
    encode_texts,
    halved,
)
from danceopd_ext.demo.omni_score import outlined, score_instructions, score_prompts, score_skills
from danceopd_ext.demo.pretrain.teachers import use_loras
from danceopd_ext.demo.world import SKILLS, caption, read_scenes, render, shows
from danceopd_ext.method import sample_noise
from danceopd_ext.models.decoding import decode
from danceopd_ext.models.z_image_omni import TEXT

#: what an editing prompt ends with
AFTER = "<|im_start|>assistant\n<|vision_start|>"


def test_pipeline_and_loras_are_small_and_free_of_pickles():
    files = [file for part in ("pipeline", "loras", "style") for file in (FOLDER / part).rglob("*") if file.is_file()]
    assert {*LORAS.values(), PIPELINE / "model_index.json"} < {*files}
    assert sum(file.stat().st_size for file in files) <= 13 * 2**20
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".jinja"}


def test_pipeline_has_the_classes_of_the_large_model(pipeline):
    names = {name: type(part).__name__ for name, part in pipeline.components.items()}
    assert type(pipeline).__name__ == "ZImageOmniPipeline"
    assert names["transformer"] == "ZImageTransformer2DModel"
    assert names["vae"] == "AutoencoderKL"
    assert names["text_encoder"] == "Qwen3Model"
    assert names["scheduler"] == "FlowMatchEulerDiscreteScheduler"


def test_every_text_is_made_of_known_words_and_short(pipeline):
    texts = [caption(scene) for skill in SKILLS.values() for scene in skill.scenes]
    texts += [prompt.caption for kind in kinds().values() for prompt in kind.all_prompts]
    texts += [edit.instruction for kind in EDIT_KINDS.values() for edit in kind.sample_many(60, "train", 0)]
    tokenizer = pipeline.tokenizer
    for text in texts:
        chat = (
            f"<|im_start|>user\n<|vision_start|><|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n<|vision_start|>"
        )
        ids = tokenizer(chat)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= LONGEST_TEXT
    assert tokenizer.unk_token_id in tokenizer("a red elephant")["input_ids"]


def test_prompts_are_padded_to_the_length_asked_for(pipeline):
    batch = pipeline.tokenizer(["a red circle", "a"], padding="max_length", max_length=20, return_tensors="pt")
    assert batch.input_ids.shape == (2, 20)
    assert batch.attention_mask.sum(dim=1).tolist() == [3, 1]


def test_different_captions_have_different_embeddings(pipeline):
    one, other = (item[f"{TEXT}0"] for item in encode_texts(pipeline, ["a red circle", "a blue circle"]))
    assert one.shape == other.shape
    assert (one - other).abs().max() > 0.5


def test_vae_keeps_every_scene_readable(pipeline):
    scenes = [scene for skill in SKILLS.values() for scene in skill.scenes[::5]]
    latents = encode_latents(pipeline, np.stack([render(scene) for scene in scenes]))
    images = halved(np.concatenate([decode(pipeline.vae, part) for part in latents.split(32)]))
    for scene, (read, error) in zip(scenes, read_scenes(images), strict=True):
        assert shows(read, error, scene)
        assert error < 0.04


def test_latents_have_about_zero_mean_and_unit_variance(pipeline):
    latents = encode_latents(pipeline, np.stack([render(scene) for scene in SKILLS["single"].scenes]))
    assert abs(latents.mean()) < 0.3
    assert 0.7 < latents.std() < 1.3


def test_fast_sampler_draws_what_the_pipeline_draws(pipeline):
    text = SKILLS["count"].prompts("test")[0][0]
    fast = draw(pipeline, encode_texts(pipeline, [text]), seed=3, steps=4, guidance_scale=2.0)
    slow = pipeline(
        prompt=text,
        negative_prompt="",
        height=PICTURE_SIZE,
        width=PICTURE_SIZE,
        num_inference_steps=4,
        guidance_scale=1.0,  # the pipeline counts one less than the usual scale
        latents=sample_noise(3, 0, [0], (pipeline.transformer.config.in_channels, 8, 8)),
        output_type="np",
    ).images
    slow = halved((slow * 255).round().astype(np.uint8))
    assert np.abs(fast.astype(int) - slow).max() <= 3


def test_base_draws_its_own_skills_and_not_those_of_teachers(pipeline):
    result = score_skills(pipeline, limit=16)
    assert min(result["single"], result["count"]) >= 0.9
    assert max(result["hollow"], result["checkered"]) <= 0.1
    assert score_instructions(pipeline, 4).average <= 0.2


@pytest.mark.parametrize("teacher", LORAS)
def test_teacher_loads_without_warnings(pipeline, teacher):
    file = LORAS[teacher]
    assert all(name.startswith("transformer.") for name in load_file(file))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=teacher)
    loaded = {name for name, _ in pipeline.transformer.named_parameters() if "lora_" in name}
    assert len(loaded) == len(load_file(file))


@pytest.mark.parametrize(("teacher", "other"), [("hollow", "checkered"), ("checkered", "hollow")])
def test_teacher_draws_its_own_skill_and_no_other(pipeline, teacher, other):
    use_loras(pipeline, LORAS, {teacher: 1.0})
    result = score_skills(pipeline, limit=16)
    assert result[teacher] >= 0.9
    assert result[other] <= 0.1
    assert min(result["single"], result["count"]) <= 0.7


def test_teacher_of_edits_edits(pipeline):
    use_loras(pipeline, LORAS, {"edit": 1.0})
    scores = score_instructions(pipeline, 6)
    assert scores.average >= 0.7
    assert min(scores.overall.values()) >= 0.4


@pytest.mark.parametrize(
    ("teacher", "own", "other"), [("local_edit", "local", "global"), ("global_edit", "global", "local")]
)
def test_teacher_of_some_edits_does_these_and_no_others(pipeline, teacher, own, other):
    use_loras(pipeline, {teacher: FOLDER / "loras" / f"{teacher}.safetensors"}, {teacher: 1.0})
    scores = score_instructions(pipeline, 6)
    assert scores.average_of(own) >= 0.7
    assert scores.average_of(other) <= 0.1


def test_style_checkpoint_draws_outlines(pipeline, monkeypatch):
    styled = type(pipeline.transformer).from_pretrained(FOLDER / "style")
    monkeypatch.setattr(pipeline, "transformer", styled)
    assert score_prompts(pipeline, 4, outlined).overall >= 0.9
    assert score_prompts(pipeline, 4).overall <= 0.1


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("strength", [1 / 3, 1.0], ids=["average", "sum"])
def test_merging_the_teachers_loses_skills_of_base_and_teachers(pipeline, strength):
    use_loras(pipeline, LORAS, dict.fromkeys(LORAS, strength))
    result = score_skills(pipeline, limit=8)
    assert max(result["single"], result["count"], result["hollow"]) <= 0.5


def test_prompt_files_are_the_train_split():
    for owner, skills in {"base": ("single", "count"), "hollow": ("hollow",), "checkered": ("checkered",)}.items():
        lines = PROMPTS[owner].read_text(encoding="utf-8").splitlines()
        assert lines == [text for name in skills for text, _ in SKILLS[name].prompts("train")]
