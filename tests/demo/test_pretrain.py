"""The code that makes the demo: every stage runs, learns something, and writes what the next one reads."""

import json

import numpy as np
import torch
from diffusers import ZImagePipeline
from safetensors.torch import load_file

from danceopd_ext.demo import LORAS
from danceopd_ext.demo.pretrain.flow import encode_skills, flow_loss, train_flow
from danceopd_ext.demo.pretrain.pipeline import build_pipeline, build_tokenizer, save_pipeline, vocabulary
from danceopd_ext.demo.pretrain.teachers import train_teacher, use_loras
from danceopd_ext.demo.pretrain.vae import random_pictures, train_vae
from danceopd_ext.demo.score import generate
from danceopd_ext.demo.world import SKILLS, read_scenes, render

CAPTION = SKILLS["single"].prompts("test")[0][0]


def test_random_pictures_are_scenes_of_the_world():
    pictures = random_pictures(64, torch.Generator().manual_seed(0))
    assert pictures.shape == (64, 3, 32, 32)
    assert pictures.min() >= -1 and pictures.max() <= 1
    reads = read_scenes(((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    assert max(error for _, error in reads) < 0.002
    assert {len(scene.objects) for scene, _ in reads} == {0, 1, 2, 3, 4}


def test_vae_training_sets_the_latents_scale():
    vae = train_vae(2, batch=4)
    means = vae.encode(random_pictures(256, torch.Generator().manual_seed(5))).latent_dist.mean
    latents = (means - vae.config.shift_factor) * vae.config.scaling_factor
    assert abs(latents.mean()) < 0.1
    assert abs(latents.std() - 1) < 0.1


def test_words_are_unique_and_the_tokenizer_knows_them():
    words = vocabulary()
    assert len(set(words)) == len(words)
    assert build_tokenizer()(" ".join(words))["input_ids"] == list(range(len(words)))


def test_base_training_lowers_the_loss(pipeline):
    fresh = build_pipeline(pipeline.vae)
    examples = encode_skills(fresh, ["single"])
    assert len(examples.embeddings) == len(examples.latents) == len(SKILLS["single"].scenes)
    losses = train_flow(fresh.transformer, examples, steps=30, batch=16)
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])


def test_trained_base_has_a_low_loss_on_its_skills_and_a_high_one_elsewhere(pipeline):
    def loss(skill: str) -> float:
        with torch.no_grad():
            examples = encode_skills(pipeline, [skill])
            return flow_loss(pipeline.transformer, examples, 64, torch.Generator().manual_seed(0), dropout=0).item()

    assert 3 * max(loss("single"), loss("count")) < min(loss("hollow"), loss("checkered"))


def test_a_trained_teacher_draws_the_same_after_saving_and_loading(pipeline, tmp_path):
    file = tmp_path / "loras" / "hollow.safetensors"
    seen = []
    train_teacher(
        pipeline,
        "hollow",
        file,
        seed=1,
        steps=3,
        batch=4,
        learning_rate=0.01,
        on_checkpoint=lambda step: seen.append(generate(pipeline, [CAPTION], steps=2)) or "",
    )
    plain = generate(pipeline, [CAPTION], steps=2)
    use_loras(pipeline, {"hollow": file}, {"hollow": 1.0})
    assert np.array_equal(generate(pipeline, [CAPTION], steps=2), seen[-1])
    assert not np.array_equal(plain, seen[-1])
    assert all(name.startswith("transformer.") for name in load_file(file))


def test_strengths_add_up_exactly(pipeline):
    layer = pipeline.transformer.layers[0].feed_forward
    inputs = torch.randn(3, layer.w1.in_features, generator=torch.Generator().manual_seed(0))
    plain = layer.w1(inputs)
    use_loras(pipeline, LORAS, {"hollow": 0.5, "checkered": 0.5})
    both = layer.w1(inputs) - plain
    deltas = []
    for name in LORAS:
        use_loras(pipeline, LORAS, {name: 1.0})
        deltas.append(layer.w1(inputs) - plain)
    assert torch.allclose(both, sum(deltas) / 2, atol=1e-5)
    assert both.abs().max() > 0.01


def test_a_saved_pipeline_loads_and_names_no_folder_of_this_machine(pipeline, tmp_path):
    save_pipeline(pipeline, tmp_path / "saved")
    texts = [file.read_text(encoding="utf-8") for file in (tmp_path / "saved").rglob("*.json")]
    assert not any("_name_or_path" in text for text in texts)
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text(encoding="utf-8"))
    assert index["tokenizer"] == ["transformers", "PreTrainedTokenizerFast"]
    again = ZImagePipeline.from_pretrained(tmp_path / "saved", local_files_only=True)
    assert np.array_equal(generate(again, [CAPTION], steps=2), generate(pipeline, [CAPTION], steps=2))


def test_the_vae_makes_latents_of_a_quarter_of_the_side(pipeline):
    scene = SKILLS["single"].scenes[0]
    pixels = torch.from_numpy(render(scene)[None]).permute(0, 3, 1, 2) / 127.5 - 1
    assert pipeline.vae.encode(pixels).latent_dist.mean.shape == (1, 8, 8, 8)
