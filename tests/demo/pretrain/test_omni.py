"""How the demo is made, that edits: its VAE is a smaller one, doubled; its conditions are the native trainer's."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from danceopd_ext.demo.edits import EDIT_KINDS
from danceopd_ext.demo.kind_scores import score_edited
from danceopd_ext.demo.kinds import kinds
from danceopd_ext.demo.omni_draw import (
    FAMILY,
    doubled,
    draw,
    encode_edits,
    encode_glances,
    encode_latents,
    encode_texts,
    halved,
)
from danceopd_ext.demo.omni_score import held_out_edits, held_out_prompts, outlined, score_instructions, score_prompts
from danceopd_ext.demo.pretrain.doubling import double_vae, smooth_squares
from danceopd_ext.demo.pretrain.mixed_flow import Share, share_loss, train_mixed
from danceopd_ext.demo.pretrain.omni import build_omni, load_omni, omni_vocabulary, save_omni
from danceopd_ext.demo.pretrain.omni_stages import Sizes, Stages
from danceopd_ext.demo.pretrain.omni_teachers import LORA_TEACHERS, train_lora, train_style
from danceopd_ext.demo.pretrain.pipeline import vocabulary
from danceopd_ext.demo.pretrain.pools import (
    base_prompts,
    described_drawings,
    drawing_pool,
    drawings,
    edit_pool,
    edits_of,
    skill_drawings,
)
from danceopd_ext.demo.pretrain.teachers import use_loras
from danceopd_ext.demo.pretrain.vae import random_pictures, train_vae
from danceopd_ext.demo.scene import Scene, describe
from danceopd_ext.demo.world import render
from danceopd_ext.models.conditions import edit_item
from danceopd_ext.models.family import Sources


@pytest.fixture(scope="module")
def small_vae():
    """A VAE of 32-pixel pictures, hardly trained."""
    return train_vae(20, batch=8)


@pytest.fixture(scope="module")
def omni(shared_pipeline):
    """An untrained pipeline around the shipped VAE."""
    return build_omni(shared_pipeline.vae, dim=24, layers=1)


@pytest.fixture(scope="module")
def edits():
    return [edit for kind in EDIT_KINDS.values() for edit in kind.sample_many(2, "train", 5)]


def pictures_of(edits):
    return np.stack([render(edit.source) for edit in edits])


def twice(pictures):
    """float [N, 3, h, w]: each pixel as 2 x 2."""
    return pictures.repeat_interleave(2, 2).repeat_interleave(2, 3)


# ----------------------------------------------------------------------------- the larger VAE


def test_a_doubled_picture_has_the_latents_of_the_picture(small_vae):
    pictures = random_pictures(4, torch.Generator().manual_seed(1))
    with torch.no_grad():
        small = small_vae.encode(pictures).latent_dist.mean
        large = double_vae(small_vae).encode(twice(pictures)).latent_dist.mean
    assert torch.allclose(large, small, atol=1e-4)


def test_squares_of_the_larger_picture_have_the_smaller_as_their_means(small_vae):
    latents = torch.randn(4, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        small, large = small_vae.decode(latents).sample, double_vae(small_vae).decode(latents).sample
    assert large.shape == (4, 3, 64, 64)
    assert torch.allclose(torch.nn.functional.avg_pool2d(large, 2), small, atol=1e-4)


def test_smoothing_makes_the_pixels_of_a_square_equal(small_vae):
    vae = double_vae(small_vae)
    pictures = twice(random_pictures(8, torch.Generator().manual_seed(9)))

    def unevenness():
        """The mean square distance of a pixel from its square's mean."""
        with torch.no_grad():
            drawn = vae.decode(vae.encode(pictures).latent_dist.mean).sample
            return (drawn - twice(torch.nn.functional.avg_pool2d(drawn, 2))).square().mean().item()

    before, encoder = unevenness(), {name: weight.clone() for name, weight in vae.encoder.state_dict().items()}
    smooth_squares(vae, 25, batch=4)
    assert unevenness() < 0.5 * before
    assert all(torch.equal(weight, encoder[name]) for name, weight in vae.encoder.state_dict().items())
    assert not any(weight.requires_grad for weight in vae.parameters())


def test_halving_undoes_doubling_and_takes_the_mean():
    pictures = np.random.default_rng(0).integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(halved(doubled(pictures)), pictures)
    square = np.array([[10, 20], [30, 60]], np.uint8)[None, :, :, None].repeat(3, 3)
    assert halved(square).tolist() == [[[[30, 30, 30]]]]


# ----------------------------------------------------------------------------- words and conditions


def test_old_words_keep_their_numbers_and_every_text_is_known(omni, edits):
    words = omni_vocabulary()
    assert words[: len(vocabulary())] == vocabulary()
    assert len(set(words)) == len(words) <= 64
    texts = [prompt.caption for kind in kinds().values() for prompt in kind.all_prompts]
    texts += [edit.instruction for kind in EDIT_KINDS.values() for edit in kind.sample_many(40, "train", 0)]
    known = {word for text in texts for word in text.split()}
    assert known <= set(words)
    marked = omni.tokenizer("<|im_start|>user\n<|vision_start|>a<|vision_end|>")["input_ids"]
    assert [words[number] for number in marked] == [
        "<|im_start|>", "user", "<|vision_start|>", "a", "<|vision_end|>",
    ]  # fmt: skip


def test_conditions_are_those_of_the_native_trainer(omni, edits):
    edit = edits[0]
    picture = Image.fromarray(doubled(render(edit.source)[None])[0])
    text, blank = FAMILY.encode_prompts(omni, [edit.instruction, ""], [Sources([picture], (64, 64))] * 2)
    expected = edit_item(text, FAMILY.encode_sources(omni.vae, Sources([picture], (64, 64))), blank)
    found = encode_edits(omni, [edit.instruction], pictures_of([edit]))[0]
    same = {name: found[name] for name in expected}
    assert set(found) == set(expected)
    assert all(torch.allclose(same[name], expected[name], atol=1e-4) for name in expected)
    plain = FAMILY.encode_prompts(omni, ["a red circle"])[0]
    own = encode_texts(omni, ["a red circle"])[0]
    assert all(torch.allclose(own[name], plain[name], atol=1e-4) for name in plain)


# ----------------------------------------------------------------------------- what it is trained on


def test_the_base_is_taught_no_hollow_shape_and_no_checkered_background():
    pairs = [*drawings(30), *skill_drawings(["single", "count"]), *described_drawings(60, 0)]
    assert not any("hollow" in text or "checkered" in text for text, _ in pairs)
    assert not any(scene.checkered or any(item.hollow for item in scene.objects) for _, scene in pairs)
    test = {p.caption for kind in kinds() for p in base_prompts(kind, "test")}
    assert not test & {text for text, _ in pairs}


def test_the_style_draws_the_same_captions_as_outlines():
    pairs = drawings(10, outlined)
    assert [text for text, _ in pairs] == [text for text, _ in drawings(10)]
    assert all(item.hollow for _, scene in pairs for item in scene.objects)


def test_edits_of_a_scope_and_of_a_split():
    assert {edit.kind for edit in edits_of("global", 3, 0)} == {"background change", "style change"}
    assert len(edits_of(None, 3, 0)) == 18
    seen = {describe(scene) for edit in edits_of(None, 20, 0) for scene in (edit.source, edit.target)}
    held = {describe(scene) for edit in held_out_edits(20) for scene in (edit.source, edit.target)}
    assert not seen & held


def test_held_out_prompts_are_even_and_plain():
    prompts = held_out_prompts(5)
    assert [sum(prompt.kind == kind for prompt in prompts) for kind in kinds()] == [5] * 6
    assert not any(prompt.hollow or prompt.checkered for prompt in prompts)


# ----------------------------------------------------------------------------- training


def test_a_pools_examples_hold_source_text_and_target(omni, edits):
    pool = edit_pool(omni, edits)
    assert len(pool) == len(edits)
    assert torch.allclose(pool.targets[3], encode_latents(omni, np.stack([render(edits[3].target)]))[0], atol=1e-5)
    with_text, without = pool.condition(3, blank=False), pool.condition(3, blank=True)
    expected = encode_edits(omni, [edits[3].instruction, ""], pictures_of([edits[3]] * 2))
    for item, wanted in zip((with_text, without), expected, strict=True):
        assert all(torch.allclose(item[name], wanted[name], atol=1e-5) for name in item)
    assert torch.equal(with_text["source_glance_0"], encode_glances(omni, pictures_of([edits[3]]))[0])


def test_unedited_examples_have_their_source_as_target(omni, edits):
    pool = edit_pool(omni, edits)
    still = edit_pool(
        omni, [edit.__class__(edit.kind, edit.instruction, edit.source, (edit.source,)) for edit in edits]
    )

    def loss(share):
        with torch.no_grad():
            return share_loss(omni.transformer, share, torch.Generator().manual_seed(3), 0.1).item()

    assert loss(Share(still, 8, unedited=1.0)) == pytest.approx(loss(Share(pool, 8, unedited=1.0)), rel=1e-5)
    assert loss(Share(pool, 8, unedited=1.0)) != pytest.approx(loss(Share(pool, 8)), rel=1e-3)


@pytest.fixture(scope="module")
def shares(omni, edits):
    return [Share(drawing_pool(omni, drawings(4)), 8), Share(edit_pool(omni, edits), 4, 0.5)]


def fresh(omni):
    return build_omni(omni.vae, dim=24, layers=1).transformer


def test_training_lowers_both_losses(omni, shares):
    losses = np.array(train_mixed(fresh(omni), shares, steps=40, learning_rate=6e-3, seed=1))
    assert losses.shape == (40, 2)
    assert (losses[-8:].mean(0) < 0.9 * losses[:5].mean(0)).all()


def test_training_that_was_stopped_goes_on_as_if_it_had_not_been(omni, shares, tmp_path):
    class Stop(Exception):
        pass

    def stop(step):
        raise Stop

    transformer, options = fresh(omni), {"steps": 6, "every": 3, "seed": 1}
    whole = train_mixed(transformer, shares, **options)
    file = tmp_path / "unfinished.pt"
    with pytest.raises(Stop):
        train_mixed(fresh(omni), shares, **options, unfinished=file, on_checkpoint=stop)
    again = fresh(omni)
    assert train_mixed(again, shares, **options, unfinished=file) == whole[3:]
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), transformer.parameters(), strict=True))


def test_a_lora_and_a_style_are_trained_saved_and_read(omni, edits, tmp_path):
    save_omni(omni, tmp_path / "pipeline")
    pipeline = load_omni(tmp_path / "pipeline")
    torch.nn.init.normal_(pipeline.transformer.all_final_layer["2-1"].linear.weight, std=0.2)
    items = encode_edits(pipeline, [edit.instruction for edit in edits[:2]], pictures_of(edits[:2]))
    before = draw(pipeline, items, steps=2)
    file = tmp_path / "edit.safetensors"
    assert list(LORA_TEACHERS) == ["hollow", "checkered", "edit", "local_edit", "global_edit"]
    train_lora(pipeline, "edit", edit_pool(pipeline, edits), file, seed=1, steps=20, learning_rate=1e-2)
    assert np.array_equal(draw(pipeline, items, steps=2), before)
    use_loras(pipeline, {"edit": file}, {"edit": 1.0})
    assert not np.array_equal(draw(pipeline, items, steps=2), before)
    pipeline = load_omni(tmp_path / "pipeline")
    train_style(pipeline, drawing_pool(pipeline, drawings(2, outlined)), tmp_path / "style", seed=1, steps=20)
    again = pipeline.transformer.__class__.from_pretrained(tmp_path / "style")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), pipeline.transformer.parameters(), strict=True))


def test_every_stage_runs_and_reads_what_the_ones_before_wrote(small_vae, tmp_path, monkeypatch):
    monkeypatch.setattr("danceopd_ext.demo.pretrain.omni_stages.told", lambda pipeline: "told")
    monkeypatch.setattr("danceopd_ext.demo.pretrain.omni_stages.build_omni", partial(build_omni, dim=24, layers=1))
    monkeypatch.setattr("danceopd_ext.engine.drawing.rollout", lambda field, noise, *_: noise[:, None])
    small_vae.save_pretrained(tmp_path / "vae_32")
    sizes = Sizes(squares=1, words=1, able=1, base=2, skill=1, edits=1, style=1, per_kind=2, scored=1)
    stages = Stages(tmp_path, 0, sizes)
    for stage in ("vae", "words", "able", "base", *LORA_TEACHERS, "style", "evaluate"):
        stages.make(stage)
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["scores"]
    assert list(scores) == ["base", *LORA_TEACHERS, "style"]
    assert list(scores["base"]) == ["text to image", "the same prompts as outlines", "edits", "skills"]
    assert list(scores["base"]["edits"]) == [*EDIT_KINDS, "average", "local", "global"]
    assert not list((tmp_path / "unfinished").iterdir())
    assert str(tmp_path) not in "".join(file.read_text(encoding="utf-8") for file in tmp_path.rglob("*config.json"))


# ----------------------------------------------------------------------------- scores


def test_scores_of_right_pictures_are_one_and_of_copies_nothing(omni, monkeypatch):
    edits, prompts = held_out_edits(2), held_out_prompts(2)
    shown = [edit.target for edit in edits]
    monkeypatch.setattr("danceopd_ext.demo.omni_score.draw", lambda *_, **__: np.stack([render(s) for s in shown]))
    assert score_instructions(omni, 2).average == 1.0
    shown[:] = [edit.source for edit in edits]
    assert score_instructions(omni, 2).average == 0.0
    shown[:] = [prompt.scene(np.random.default_rng(0)) for prompt in prompts]
    assert score_prompts(omni, 2).overall == 1.0
    assert score_prompts(omni, 2, outlined).overall == 0.0
    shown[:] = [Scene((), "white")] * len(prompts)
    assert score_prompts(omni, 2).overall == 0.0


def test_noise_does_not_depend_on_the_batch(omni, edits):
    items = encode_edits(omni, [edit.instruction for edit in edits[:3]], pictures_of(edits[:3]))
    assert np.abs(draw(omni, items, steps=2).astype(int) - draw(omni, items, steps=2, batch=2)).max() <= 1
    assert score_edited(edits[:3], draw(omni, items, steps=2)).average <= 1
