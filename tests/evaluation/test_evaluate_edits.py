"""Edits: where they lie, what they depend on, and that they are the pipelines' own."""

import diffusers
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from danceopd_ext.method import generator
from danceopd_ext.models.registry import FAMILIES
from tests.evaluation.benchmarks import write_gedit
from tests.evaluation.calls import SIZE, gedit, gedit_arguments, pixels


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


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_an_edit_is_the_pipelines_own(evaluate, tmp_path, omni, scale):
    """For a model whose text encoder sees the source picture, with and without guidance."""
    done = gedit(evaluate, tmp_path, omni, "--limit", "2", "--guidance_scale", str(scale))
    file = "fullset/background_change/en/k2.png"
    pipeline = diffusers.ZImageOmniPipeline.from_pretrained(omni)
    pipeline.set_progress_bar_config(disable=True)
    family = FAMILIES["z_image_omni"]
    shape = family.latent_shape(pipeline.transformer.config, pipeline.vae_scale_factor, 64, 64)
    noise = torch.randn((1, *shape), generator=generator(0, "evaluate", file))
    encode = pipeline.vae.encode
    pipeline.vae.encode = lambda pixels: encode(pixels.float())  # it hands source pictures over in bfloat16
    latents = pipeline(
        prompt="the river at night", image=[Image.open(tmp_path / "two.png")], negative_prompt="", latents=noise,
        width=64, height=64, num_inference_steps=2, guidance_scale=scale - 1, output_type="latent",
    ).images  # fmt: skip
    with torch.no_grad():
        config = pipeline.vae.config
        theirs = pipeline.vae.decode(latents.float() / config.scaling_factor + config.shift_factor).sample
    theirs = ((theirs[0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy()
    assert np.abs(pixels(done.parent / file) - theirs).max() < 2


def test_a_picture_does_not_depend_on_what_else_is_drawn(evaluate, tmp_path, klein):
    some, all_of_them = tmp_path / "some", tmp_path / "all"
    for folder in (some, all_of_them):
        folder.mkdir()
    one = gedit(evaluate, some, klein, "--language", "cn") / "color_alter/cn/k3.png"
    other = gedit(evaluate, all_of_them, klein, "--language", "all") / "color_alter/cn/k3.png"
    assert one.read_bytes() == other.read_bytes()


def write_parquet(folder):
    """Two rows with the columns and types of the benchmark as it lies on the hub."""
    write_gedit(folder)
    pictures = [{"bytes": (folder / name).read_bytes(), "path": None} for name in ("one.png", "two.png")]
    table = {
        "key": ["k1", "k2"],
        "task_type": ["color_alter", "subject-add"],
        "instruction": ["make the cat red", "把猫变红"],
        "instruction_language": ["en", "cn"],
        "input_image": pictures,
        "input_image_raw": pictures[::-1],
        "Intersection_exist": [True, False],
    }
    picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    types = [pyarrow.string()] * 4 + [picture] * 2 + [pyarrow.bool_()]
    columns = [pyarrow.array(values, kind) for values, kind in zip(table.values(), types, strict=True)]
    path = folder / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    pyarrow.parquet.write_table(pyarrow.table(columns, names=list(table)), path)


def test_the_benchmarks_own_parquet_is_read(evaluate, tmp_path, klein):
    write_parquet(tmp_path)
    out = tmp_path / "out"
    common = ["gedit", "--prompts", str(tmp_path), "--model", str(klein), "--out", str(out), *SIZE]
    evaluate.main([*common, "--language", "all"])
    files = sorted(path.relative_to(out / "base").as_posix() for path in (out / "base").rglob("*.png"))
    assert files == [
        "fullset/color_alter/en/k1.png", "fullset/color_alter/en/k1_SRCIMG.png",
        "fullset/subject-add/cn/k2.png", "fullset/subject-add/cn/k2_SRCIMG.png",
    ]  # fmt: skip
    source = pixels(out / "base/fullset/color_alter/en/k1_SRCIMG.png")
    assert np.array_equal(source, pixels(tmp_path / "one.png"))  # input_image, not input_image_raw


def test_a_source_that_the_model_does_not_take_is_named(evaluate, tmp_path, klein, refusal):
    Image.new("RGB", (100, 10)).save(tmp_path / "thin.png")
    write_gedit(tmp_path, input_image="thin.png")
    message = refusal(gedit_arguments(tmp_path, klein))
    assert "line 1: its source image cannot be used" in message and "100 x 10" in message
