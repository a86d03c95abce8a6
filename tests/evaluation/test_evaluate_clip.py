"""CLIP scores, and when CLIP is on the device."""

import json
import weakref

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from danceopd_ext.engine import model as engine_model
from danceopd_ext.evaluation.scores import ClipScore
from tests.evaluation.calls import geneval
from tests.tiny.families.parts import tokenizer


def test_clip_scores_are_clips_own(evaluate, tmp_path, sd3):
    clip = tiny_clip(tmp_path / "clip")
    geneval(evaluate, tmp_path, sd3, "--clip", str(clip), "--limit", "1")
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))["scores"]
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    found = []
    for n in range(2):
        image = Image.open(tmp_path / f"out/style/00000/samples/000{n}.png")
        inputs = processor(text=["a photo of a cat"], images=[image], return_tensors="pt", padding=True)
        with torch.no_grad():
            logits = model(**inputs).logits_per_image.item()
        found.append(max(0.0, 100 * logits / model.logit_scale.exp().item()))
    assert scores["style"]["single_object"]["clip"] == pytest.approx(sum(found) / 2, abs=1e-3)
    assert "| style | all |" in (tmp_path / "out" / "scores.md").read_text(encoding="utf-8")


def test_clip_comes_to_the_device_when_what_drew_has_left(evaluate, tmp_path, sd3, monkeypatch):
    """On a card that the transformer just fits on there is no room for both, nor for text encoders beside either."""
    parts, beside = {}, []

    def note(name):
        beside.append((name, {other for other, part in parts.items() if part() is not None}))

    def watch(module, name):
        load = getattr(module, name)

        def loading(*found):
            note(name)
            part = load(*found)
            parts[name] = weakref.ref(getattr(part, "text_encoder", part))
            return part

        monkeypatch.setattr(module, name, loading)

    def to(clip, device):
        note("clip")
        return move(clip, device)

    move = CLIPModel.to
    monkeypatch.setattr(CLIPModel, "to", to)
    for name in ("load_text_pipeline", "load_vae", "load_transformer"):
        watch(engine_model, name)
    geneval(evaluate, tmp_path, sd3, "--clip", str(tiny_clip(tmp_path / "clip")))
    assert beside[:4] == [
        ("load_text_pipeline", set()), ("load_vae", set()), ("load_transformer", {"load_vae"}), ("clip", set()),
    ]  # fmt: skip


def test_clip_waits_on_the_cpu(tmp_path):
    clip = ClipScore(str(tiny_clip(tmp_path / "clip")), torch.device("meta"))
    assert {parameter.device.type for parameter in clip.model.parameters()} == {"cpu"}


def tiny_clip(folder):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 32, "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16}, projection_dim=8)
    )
    model.save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor=images, tokenizer=tokenizer(16)).save_pretrained(folder)
    return folder
