import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from danceopd_ext.cli import run
from danceopd_ext.errors import UserError
from tests.evaluation.benchmarks import write_gedit, write_geneval
from tests.tiny.loras import write_random_lora
from tests.tiny.packed_pipelines import klein_pipeline
from tests.tiny.pipelines import save_pipeline, tokenizer

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"
SIZE = ("--width", "64", "--height", "64", "--steps", "2")


@pytest.fixture(scope="module")
def evaluate():
    spec = importlib.util.spec_from_file_location("evaluate_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd3")
    model = save_pipeline("sd3", folder / "model")
    return model, write_random_lora(folder / "style.safetensors", model, seed=3)


def geneval(evaluate, folder, sd3, *more: str) -> None:
    model, lora = sd3
    prompts = str(write_geneval(folder))
    evaluate.main(
        [
            "geneval",
            "--prompts",
            prompts,
            "--model",
            str(model),
            "--lora",
            f"style={lora}",
            "--samples",
            "2",
            "--out",
            str(folder / "out"),
            *SIZE,
            *more,
        ]
    )


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_geneval_folders_hold_what_the_scorer_reads(evaluate, tmp_path, sd3, capsys):
    geneval(evaluate, tmp_path, sd3)
    files = sorted(p.relative_to(tmp_path / "out" / "style").as_posix() for p in (tmp_path / "out/style").rglob("*.*"))
    assert files == [
        "00000/metadata.jsonl", "00000/samples/0000.png", "00000/samples/0001.png",
        "00001/metadata.jsonl", "00001/samples/0000.png", "00001/samples/0001.png", "settings.json",
    ]  # fmt: skip
    first = pixels(tmp_path / "out/style/00000/samples/0000.png")
    assert first.shape == (64, 64, 3)
    assert not np.array_equal(first, pixels(tmp_path / "out/style/00000/samples/0001.png"))
    assert not np.array_equal(first, pixels(tmp_path / "out/base/00000/samples/0000.png"))
    assert (tmp_path / "out" / "grid.png").is_file()
    assert "8 pictures drawn; 0 were there already" in capsys.readouterr().out


def test_the_base_column_is_what_the_pipeline_draws_from_the_same_noise(evaluate, tmp_path, sd3):
    from diffusers import StableDiffusion3Pipeline

    from danceopd_ext.method import generator

    geneval(evaluate, tmp_path, sd3, "--guidance_scale", "3", "--no_base", "--lora", "nothing=" + str(sd3[1]) + "@0")
    pipeline = StableDiffusion3Pipeline.from_pretrained(sd3[0])
    pipeline.set_progress_bar_config(disable=True)
    channels = pipeline.transformer.config.in_channels
    side = 64 // pipeline.vae_scale_factor
    noise = torch.randn((1, channels, side, side), generator=generator(0, "evaluate", 1, 0))
    theirs = pipeline(
        "a photo of the big dog", negative_prompt="", latents=noise, width=64, height=64, num_inference_steps=2,
        guidance_scale=3.0, output_type="np",
    ).images[0]  # fmt: skip
    ours = pixels(tmp_path / "out/nothing/00001/samples/0000.png") / 255
    assert np.abs(ours - theirs).max() < 1.5 / 255


def test_what_is_drawn_already_stays_and_gaps_are_filled_alike(evaluate, tmp_path, sd3, capsys):
    geneval(evaluate, tmp_path, sd3)
    lost, kept = (tmp_path / f"out/style/00001/samples/000{n}.png" for n in (0, 1))
    content, time = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    capsys.readouterr()
    geneval(evaluate, tmp_path, sd3)
    assert lost.read_bytes() == content
    assert kept.stat().st_mtime_ns == time


def test_other_settings_do_not_mix_with_what_is_there(evaluate, tmp_path, sd3):
    geneval(evaluate, tmp_path, sd3)
    with pytest.raises(UserError, match=r"drawn with guidance_scale = 1\.0, not 2\.0"):
        geneval(evaluate, tmp_path, sd3, "--guidance_scale", "2")


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


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--width", "61"), "--width 61: .* multiples of"),
        (("--lora", "base=x.safetensors"), "NAME a plain word other than base"),
        (("--lora", "gone=none.safetensors"), "none.safetensors"),
        (("--clip", "nowhere"), "--clip nowhere"),
        (("--mixed_precision", "fp16"), "needs a GPU"),
    ],
)
def test_bad_arguments_end_with_one_message_before_anything_is_drawn(evaluate, tmp_path, sd3, more, message):
    with pytest.raises(UserError, match=message):
        geneval(evaluate, tmp_path, sd3, *more)
    assert not list(tmp_path.rglob("0000.png"))


def test_an_edit_benchmark_needs_a_model_that_edits(evaluate, tmp_path, sd3, capsys):
    arguments = ["gedit", "--prompts", str(write_gedit(tmp_path)), "--model", str(sd3[0]), "--out", str(tmp_path)]
    assert run(evaluate.main, [*arguments, *SIZE]) == 2
    assert "cannot edit pictures" in capsys.readouterr().err


@pytest.fixture(scope="module")
def klein(tmp_path_factory):
    folder = tmp_path_factory.mktemp("klein") / "model"
    klein_pipeline().save_pretrained(folder)
    return folder


def gedit(evaluate, folder, model, *more: str) -> Path:
    out = folder / "out"
    prompts = str(write_gedit(folder))
    evaluate.main(["gedit", "--prompts", prompts, "--model", str(model), "--out", str(out), *SIZE, *more])
    return out / "base" / "fullset"


def test_edits_lie_by_task_and_language_with_their_source(evaluate, tmp_path, klein, capsys):
    done = gedit(evaluate, tmp_path, klein, "--language", "all")
    files = sorted(path.relative_to(done).as_posix() for path in done.rglob("*.png"))
    assert files == [
        "background_change/en/k2.png", "background_change/en/k2_SRCIMG.png",
        "color_alter/cn/k3.png", "color_alter/cn/k3_SRCIMG.png",
        "color_alter/en/k1.png", "color_alter/en/k1_SRCIMG.png",
    ]  # fmt: skip
    wide = Image.open(done / "color_alter/en/k1.png")
    assert wide.width / wide.height == pytest.approx(96 / 64, rel=0.2)
    assert wide.width * wide.height == pytest.approx(64 * 64, rel=0.2)
    table = capsys.readouterr().out
    assert "| base | background_change |" in table and "kept" in table


def test_the_source_decides_what_comes_out(evaluate, tmp_path, klein):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    one = gedit(evaluate, first, klein, "--limit", "1") / "color_alter/en/k1.png"
    write_gedit(second)
    Image.new("RGB", (96, 64), (5, 5, 250)).save(second / "three.png")
    path = second / "changed.jsonl"
    path.write_text((second / "prompts.jsonl").read_text(encoding="utf-8").replace("one.png", "three.png"), "utf-8")
    out = str(second / "out")
    evaluate.main(["gedit", "--prompts", str(path), "--model", str(klein), "--out", out, "--limit", "1", *SIZE])
    other = second / "out/base/fullset/color_alter/en/k1.png"
    assert pixels(one).shape == pixels(other).shape
    assert not np.array_equal(pixels(one), pixels(other))


def tiny_clip(folder: Path) -> Path:
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
