import numpy as np
import pytest
import torch
from diffusers import QwenImageEditPipeline, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from danceopd_ext.method import generator
from danceopd_ext.models.packing import pack
from tests.evaluation.calls import geneval, geneval_arguments, pixels
from tests.tiny.calls import drawing
from tests.tiny.loras import write_random_lora
from tests.tiny.pipelines import save_any


def test_geneval_folders_hold_what_the_scorer_reads(evaluate, tmp_path, sd3, capsys):
    geneval(evaluate, tmp_path, sd3)
    files = sorted(p.relative_to(tmp_path / "out" / "style").as_posix() for p in (tmp_path / "out/style").rglob("*.*"))
    assert files == [
        "00000/metadata.jsonl", "00000/samples/0000.png", "00000/samples/0001.png",
        "00001/metadata.jsonl", "00001/samples/0000.png", "00001/samples/0001.png", "asked.json", "settings.json",
    ]  # fmt: skip
    first = pixels(tmp_path / "out/style/00000/samples/0000.png")
    assert first.shape == (64, 64, 3)
    assert not np.array_equal(first, pixels(tmp_path / "out/style/00000/samples/0001.png"))
    assert not np.array_equal(first, pixels(tmp_path / "out/base/00000/samples/0000.png"))
    assert (tmp_path / "out" / "grid.png").is_file()
    assert "8 pictures drawn; 0 already existed" in capsys.readouterr().out


def test_the_base_column_is_what_the_pipeline_draws_from_the_same_noise(evaluate, tmp_path, sd3):
    geneval(evaluate, tmp_path, sd3, "--guidance_scale", "3", "--no_base", "--lora", "nothing=" + str(sd3[1]) + "@0")
    pipeline = StableDiffusion3Pipeline.from_pretrained(sd3[0])
    pipeline.set_progress_bar_config(disable=True)
    channels = pipeline.transformer.config.in_channels
    side = 64 // pipeline.vae_scale_factor
    noise = torch.randn((1, channels, side, side), generator=generator(0, "evaluate", "00001/samples/0000.png"))
    theirs = pipeline(
        "a photo of the big dog", negative_prompt="", latents=noise, width=64, height=64, num_inference_steps=2,
        guidance_scale=3.0, output_type="np",
    ).images[0]  # fmt: skip
    ours = pixels(tmp_path / "out/nothing/00001/samples/0000.png") / 255
    assert np.abs(ours - theirs).max() < 1.5 / 255


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_qwen_image_edit_draws_what_qwen_images_pipeline_draws(evaluate, tmp_path, processors, scale):
    """A model that edits can draw from text too."""
    model = save_any("qwen_image_edit", tmp_path / "model")
    evaluate.main(geneval_arguments(tmp_path, model, "--guidance_scale", str(scale)))
    pipeline = drawing(QwenImageEditPipeline.from_pretrained(model))
    pipeline.set_progress_bar_config(disable=True)
    channels, side = pipeline.transformer.config.in_channels // 4, 64 // pipeline.vae_scale_factor
    noise = torch.randn((1, channels, side, side), generator=generator(0, "evaluate", "00001/samples/0000.png"))
    theirs = pipeline(
        "a photo of the big dog", negative_prompt="", latents=pack(noise), width=64, height=64, num_inference_steps=2,
        true_cfg_scale=scale, output_type="np",
    ).images[0]  # fmt: skip
    ours = pixels(tmp_path / "out/base/00001/samples/0000.png") / 255
    assert np.abs(ours - theirs).max() < 1.5 / 255


def test_a_lora_with_a_text_encoders_part(evaluate, tmp_path, sd3, refusal):
    """It is refused as a whole, and draws like its transformer's part where that is asked for."""
    model, style = sd3
    whole = tmp_path / "whole.safetensors"
    part = {
        f"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_{end}.weight": torch.ones(2, 2) for end in ("down", "up")
    }
    save_file(load_file(style) | part, whole)
    arguments = geneval_arguments(tmp_path, model, "--no_base", "--limit", "1", "--lora", f"whole={whole}")
    message = refusal(arguments)
    assert "--lora whole: " in message and "--ignore_text_encoder" in message
    evaluate.main([*arguments, "--ignore_text_encoder", "--lora", f"style={style}"])
    one, other = (pixels(tmp_path / f"out/{name}/00000/samples/0000.png") for name in ("whole", "style"))
    assert np.array_equal(one, other)


def test_what_is_drawn_already_stays_and_gaps_are_filled_alike(evaluate, tmp_path, sd3, capsys):
    geneval(evaluate, tmp_path, sd3)
    lost, kept = (tmp_path / f"out/style/00001/samples/000{n}.png" for n in (0, 1))
    content, time = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    capsys.readouterr()
    geneval(evaluate, tmp_path, sd3)
    assert "1 pictures drawn; 7 already existed" in capsys.readouterr().out
    assert lost.read_bytes() == content
    assert kept.stat().st_mtime_ns == time


def test_loras_side_by_side_are_what_each_draws_alone(evaluate, tmp_path, sd3):
    """Two LoRAs and a sum of both: three columns that differ, and none leaks into another or into the base."""
    model, style = sd3
    other = write_random_lora(tmp_path / "other.safetensors", model, seed=8)
    names = {"style": f"{style}", "other": f"{other}", "both": f"{style},{other}@0.5"}
    together, alone = tmp_path / "together", tmp_path / "alone"
    for folder in (together, alone):
        folder.mkdir()
    loras = [word for name, files in names.items() for word in ("--lora", f"{name}={files}")]
    evaluate.main(geneval_arguments(together, model, *loras))
    evaluate.main(geneval_arguments(alone, model))
    for name, files in names.items():
        evaluate.main(geneval_arguments(alone, model, "--no_base", "--lora", f"{name}={files}"))
    drawn = {}
    for name in ("base", *names):
        file = f"out/{name}/00001/samples/0001.png"
        drawn[name] = pixels(together / file)
        assert np.array_equal(drawn[name], pixels(alone / file))
    assert len({picture.tobytes() for picture in drawn.values()}) == 4
