"""Encoding prompts: room on the disk, and text encoders that do not fit into the GPU."""

from collections import namedtuple

import pytest
import torch

from danceopd_ext.data.plan import Prompt
from danceopd_ext.data.prompt_cache import PromptCache
from danceopd_ext.data.text_cache import TextCache
from danceopd_ext.engine import prompts as engine_prompts
from danceopd_ext.engine.fields import CheckpointField
from danceopd_ext.errors import UserError
from danceopd_ext.models.family import TextConditions
from danceopd_ext.models.loading import stream
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.models.registry import FAMILIES
from danceopd_ext.models.text_pipeline import load_text_pipeline
from danceopd_ext.toolkits.native.encoding import FEWER_TEXTS
from tests.tiny.calls import noise_for
from tests.tiny.pipelines import ALL, save_any

Usage = namedtuple("Usage", "total used free")


def encode(prompts):
    return [{"embeds": torch.zeros(1000)} for _ in prompts]


def room(cache, texts, free, monkeypatch):
    told = []
    monkeypatch.setattr(engine_prompts.shutil, "disk_usage", lambda folder: Usage(0, 0, free))
    asked = [Prompt(text) for text in texts]
    engine_prompts.check_room(PromptCache(cache), asked, encode, told.append, FEWER_TEXTS)
    return told


def test_a_cache_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    cache = TextCache(tmp_path, "key")
    texts = [str(i) for i in range(100)]
    with pytest.raises(UserError, match="text_encoder_cache_dir"):
        room(cache, texts, 300_000, monkeypatch)
    assert room(cache, texts, 600_000, monkeypatch) == []


def test_a_large_cache_is_announced(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_prompts, "SHOWN_BYTES", 1000)
    told = room(TextCache(tmp_path, "key"), ["a", "b"], 10**9, monkeypatch)
    assert len(told) == 1
    assert str(tmp_path) in told[0]


@pytest.mark.parametrize("name", list(FAMILIES))
def test_encoders_that_do_not_fit_are_streamed_and_give_the_same(name, tmp_path, monkeypatch, processors):
    source = find_model_files(str(save_any(name, tmp_path / "model")))
    family = FAMILIES[name]
    expected = family.encode_prompts(load_text_pipeline(source, torch.float32, "cpu"), ["a cat"])[0]
    import diffusers

    cls = getattr(diffusers, family.pipeline_class)
    whole = cls.to

    def full(self, device, *arguments, **more):
        if not getattr(self, "refused", False):
            self.refused = True
            raise torch.OutOfMemoryError("full")
        return whole(self, device, *arguments, **more)

    monkeypatch.setattr(cls, "to", full)
    pipeline = load_text_pipeline(source, torch.float32, "cpu")
    assert pipeline.refused
    assert hasattr(pipeline.text_encoder, "_diffusers_hook") or any(
        hasattr(module, "_diffusers_hook") for module in pipeline.text_encoder.modules()
    )
    found = family.encode_prompts(pipeline, ["a cat"])[0]
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_streamed_checkpoint_teacher_has_the_same_velocity(name):
    from contextlib import nullcontext

    family, pipeline = FAMILIES[name], ALL[name]()
    text = family.encode_prompts(pipeline, ["a cat"])
    z, sigma, condition = noise_for(family, pipeline, (32, 32)), torch.tensor([0.5]), TextConditions(text, text[0])
    field = CheckpointField(family, pipeline.transformer, torch.device("cpu"), nullcontext)
    before = field(z, sigma, condition)
    stream(pipeline.transformer, torch.device("cpu"))
    assert torch.equal(field(z, sigma, condition), before)


def test_prompts_that_are_cut_are_told_with_their_places(ran, tmp_path, capsys):
    (tmp_path / "p.txt").write_text("red cat\n" + "red cat " * 300 + "\n", encoding="utf-8")
    (tmp_path / "s.txt").write_text("blue river " * 300 + "--s 2 --w 16 --h 16\n", encoding="utf-8")
    output = ran(
        {"base": {}}, prompts={"base": str(tmp_path / "p.txt")}, sample_prompts=str(tmp_path / "s.txt"),
        sample_every_n_steps=2,
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "note: Z-Image does not read the end of 2 prompts: " in said
    assert f"{tmp_path / 'p.txt'}, line 2 (96 of 602 tokens are read)" in said
    assert '"blue river ' in said
    assert (output / "fused.safetensors").is_file()
