"""The code that makes the demo: its VAE, its words, its files. The stages of the editing base: test_omni.py."""

import json

import numpy as np
import torch

from danceopd_ext.demo import LORAS
from danceopd_ext.demo.omni_draw import draw, encode_texts
from danceopd_ext.demo.pretrain.omni import load_omni, save_omni
from danceopd_ext.demo.pretrain.pipeline import build_tokenizer, vocabulary
from danceopd_ext.demo.pretrain.teachers import use_loras
from danceopd_ext.demo.pretrain.vae import build_vae, random_pictures, train_vae
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


def test_strengths_add_up_exactly(pipeline):
    layer = pipeline.transformer.layers[0].feed_forward
    inputs = torch.randn(3, layer.w1.in_features, generator=torch.Generator().manual_seed(0))
    plain = layer.w1(inputs)
    use_loras(pipeline, LORAS, dict.fromkeys(LORAS, 0.5))
    all_of_them = layer.w1(inputs) - plain
    deltas = []
    for name in LORAS:
        use_loras(pipeline, LORAS, {name: 1.0})
        deltas.append(layer.w1(inputs) - plain)
    assert torch.allclose(all_of_them, sum(deltas) / 2, atol=1e-5)
    assert all_of_them.abs().max() > 0.01


def test_a_saved_pipeline_loads_and_names_no_folder_of_this_machine(pipeline, tmp_path):
    save_omni(pipeline, tmp_path / "saved")
    texts = [file.read_text(encoding="utf-8") for file in (tmp_path / "saved").rglob("*.json")]
    assert not any("_name_or_path" in text for text in texts)
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text(encoding="utf-8"))
    assert index["tokenizer"] == ["transformers", "PreTrainedTokenizerFast"]
    again = load_omni(tmp_path / "saved")
    before, after = (draw(one, encode_texts(one, [CAPTION]), steps=2) for one in (pipeline, again))
    assert np.array_equal(before, after)


def test_the_vae_makes_latents_of_a_quarter_of_the_side():
    scene = SKILLS["single"].scenes[0]
    pixels = torch.from_numpy(render(scene)[None]).permute(0, 3, 1, 2) / 127.5 - 1
    assert build_vae().encode(pixels).latent_dist.mean.shape == (1, 8, 8, 8)
