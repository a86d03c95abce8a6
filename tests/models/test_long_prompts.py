"""Prompts of any length: what the pipelines cut, what has no place in a model, and what is told of it."""

from __future__ import annotations

import json

import pytest
import torch

from danceopd_ext.errors import UserError
from danceopd_ext.models import qwen_image
from danceopd_ext.models.family import Sources, TextConditions
from danceopd_ext.models.loading import load_layout, load_transformer
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.models.text_pipeline import load_text_pipeline
from danceopd_ext.models.z_image import room_in_places, within_places
from tests.tiny.calls import pictures
from tests.tiny.pipelines import save_any

ROOMY = {"axes_lens": [4096, 32, 32]}


def words(count, last="cat"):
    return " ".join([*["red"] * (count - 1), last])


def differ(family, pipeline, one, other):
    first, second = family.encode_prompts(pipeline, [one, other])
    return any(not first[name].equal(second[name]) for name in first)


def test_the_room_is_where_the_pipeline_cuts(folder, processors):
    source = find_model_files(str(folder))
    family, pipeline = source.family, load_text_pipeline(source, torch.float32, "cpu")
    room = family.text_room(pipeline, ROOMY)
    fitting = max(n for n in range(1, room + 1) if family.text_length(pipeline, words(n)) <= room)
    assert family.text_length(pipeline, words(fitting + 1)) > room
    assert differ(family, pipeline, words(fitting), words(fitting, "dog")), "the last word is read"
    assert not differ(family, pipeline, words(fitting + 60), words(fitting + 60, "dog")), "the last word is cut"


@pytest.mark.parametrize("name", ["z_image", "z_image_omni"])
def test_a_prompt_of_any_length_is_drawn(name, tmp_path):
    source = find_model_files(str(save_any(name, tmp_path / "model")))
    family, pipeline = source.family, load_text_pipeline(source, torch.float32, "cpu")
    transformer, config = load_transformer(source, torch.float32), load_layout(source)[1]
    room = family.text_room(pipeline, config)
    assert room < family.longest_text, "the tiny model has fewer places than its tokenizer gives tokens"
    (long,) = family.encode_prompts(pipeline, [words(700)])
    key = next(iter(long))
    noise = torch.randn(1, *family.latent_shape(config, source.vae_scale_factor, 16, 16))

    def velocity(item):
        with torch.no_grad():
            return family.velocity(transformer, noise, torch.tensor([0.5]), TextConditions([item], {}))

    assert velocity(long).isfinite().all()
    assert velocity(long).equal(velocity({key: long[key][:room]}))
    assert not velocity(long).equal(velocity({key: long[key][: room - 1]}))


@pytest.mark.parametrize("count", [1, 2])
def test_a_long_instruction_has_place_beside_its_source_images(count, tmp_path):
    source = find_model_files(str(save_any("z_image_omni", tmp_path / "model")))
    family, pipeline = source.family, load_text_pipeline(source, torch.float32, "cpu")
    transformer, config = load_transformer(source, torch.float32), load_layout(source)[1]
    (item,) = family.encode_prompts(pipeline, [words(700)], [Sources(pictures(count), (16, 16))])
    shape = family.latent_shape(config, source.vae_scale_factor, 16, 16)
    item |= {f"source_{i}": torch.randn(shape) for i in range(count)}
    with torch.no_grad():
        found = family.velocity(transformer, torch.randn(1, *shape), torch.tensor([0.5]), TextConditions([item], {}))
    assert found.isfinite().all()


@pytest.mark.parametrize("lengths", [[1], [700], [94], [4, 300, 2], [2, 2, 500, 1], [31, 33, 65, 2]])
@pytest.mark.parametrize("places", [256, 1024])
def test_texts_end_before_the_places_do(lengths, places):
    texts = within_places([torch.zeros(length, 1) for length in lengths], places)
    place = 1
    for text in texts:  # as the transformer counts
        assert place + -(-len(text) // 32) * 32 <= places
        place += len(text) + 2
    assert place <= places
    assert sum(len(text) < length for text, length in zip(texts, lengths, strict=True)) <= 1, "only the longest is cut"
    assert max(map(len, texts)) == min(max(lengths), room_in_places(lengths, places))


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_tokenizer_that_gives_more_than_clip_has_positions_for(name, tmp_path):
    folder = save_any(name, tmp_path / "model")
    for part in ("tokenizer", "tokenizer_2"):
        settings = folder / part / "tokenizer_config.json"
        if part == "tokenizer" or name == "sd3":
            settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": 10**30}))
    source = find_model_files(str(folder))
    pipeline = load_text_pipeline(source, torch.float32, "cpu")
    assert pipeline.tokenizer_max_length == pipeline.text_encoder.config.max_position_embeddings
    (found,) = source.family.encode_prompts(pipeline, [words(700)])
    assert found["pooled"].isfinite().all()


def test_an_edit_whose_text_has_no_place_names_the_prompt(tmp_path, processors, small_sources, monkeypatch):
    monkeypatch.setattr(qwen_image, "LONGEST_EDIT", 200)
    pipeline = load_text_pipeline(
        find_model_files(str(save_any("qwen_image_edit", tmp_path / "m"))), torch.float32, "cpu"
    )
    sources = [Sources(pictures(1), (64, 64))]
    FAMILIES["qwen_image_edit"].encode_prompts(pipeline, ["a cat"], sources)
    with pytest.raises(UserError, match=r'cannot use the prompt "red red .* tokens, more than 200\. Shorten it'):
        FAMILIES["qwen_image_edit"].encode_prompts(pipeline, [words(300)], sources)
