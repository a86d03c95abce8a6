"""Source images in the native trainer: encoded once, seen by text encoders where these look, and shown in previews."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from danceopd_ext.engine import model
from danceopd_ext.toolkits.native import previews
from tests.tiny.edit_world import prompt_file, write_source

pytestmark = pytest.mark.usefixtures("small_sources")


# --- encoded once


@pytest.fixture
def encoded(monkeypatch):
    """What the text encoders and the VAE are asked for: prompts, and source images."""
    asked = {"prompts": [], "sources": 0, "vae": 0}
    load, vae = model.load_text_pipeline, model.load_vae

    def loaded(source, *rest):
        encode = source.family.encode_prompts

        def counted(pipeline, prompts, given=None):
            counts = [len(own.images) for own in given] if given else [0] * len(prompts)
            asked["prompts"] += zip(prompts, counts, strict=True)
            return encode(pipeline, prompts, given)

        monkeypatch.setattr(source.family, "encode_prompts", counted, raising=False)
        return load(source, *rest)

    def loaded_vae(source, *rest):
        asked["vae"] += 1
        encode = source.family.encode_sources

        def counted(vae, given):
            asked["sources"] += len(given.images)
            return encode(vae, given)

        monkeypatch.setattr(source.family, "encode_sources", counted, raising=False)
        return vae(source, *rest)

    monkeypatch.setattr(model, "load_text_pipeline", loaded)
    monkeypatch.setattr(model, "load_vae", loaded_vae)
    return asked


EDITS = [("red cat red cat red cat on", 1), ("red cat red cat red cat of", 1)]


@pytest.mark.parametrize(
    ("name", "teacher", "prompts"),
    [
        ("flux_kontext", {}, [("", 0), *((text, 0) for text, _ in EDITS)]),
        ("qwen_image_edit", {}, [("", 0), *EDITS * 2]),
        ("qwen_image_edit", {"guidance_scale": 2.0}, [("", 0), *EDITS * 2, *[("", 1)] * 4]),
        ("z_image_omni", {"guidance_scale": 2.0}, [("", 0), *EDITS * 2, *[("", 1)] * 4]),
    ],
)
def test_each_source_image_is_encoded_once_and_each_prompt_as_often_as_it_must(
    name, teacher, prompts, edit_preset, launch, encoded, monkeypatch, tmp_path
):
    """Text encoders that see the source image are asked for each pair, and for the empty prompt if something guides."""
    keys = {"max_train_steps": 5, "train_batch_size": 2, "text_encoder_cache_dir": str(tmp_path / "cache")}
    launch(edit_preset(name, {"base": teacher}, folder="first", **keys))
    assert sorted(encoded["prompts"]) == sorted(prompts)
    assert (encoded["sources"], encoded["vae"]) == (4, 1)
    asked = str(encoded)
    launch(edit_preset(name, {"base": teacher}, folder="second", **keys))
    assert str(encoded) == asked, "nothing is encoded again"


@pytest.mark.parametrize(
    ("name", "source_size", "prompts", "sources"),
    [
        ("z_image_omni", (1200, 900), [("", 0), *[("red cat", 1)] * 2], 2),
        ("z_image_omni", (96, 64), [("", 0), ("red cat", 1)], 1),
        ("qwen_image_edit", (1200, 900), [("", 0), ("red cat", 1)], 1),
        ("flux_kontext", (1200, 900), [("", 0), ("red cat", 0)], 1),
    ],
)
def test_two_sizes_of_a_picture_share_a_source_image_where_the_model_takes_it_alike(
    name, source_size, prompts, sources, edit_preset, launch, encoded, tmp_path
):
    """Z-Image-Omni brings a large source image to the size of the picture: then each has an entry of its own."""
    write_source(tmp_path / "a.png", source_size)
    lines = "".join(f"red cat,a.png,{side},{side}\n" for side in (16, 24))
    files = {"base": prompt_file(tmp_path, f"prompt,source,width,height\n{lines}")}
    launch(edit_preset(name, prompts=files, max_train_steps=4))
    assert sorted(encoded["prompts"]) == sorted(prompts)
    assert encoded["sources"] == sources


# --- previews


@pytest.fixture
def grids(monkeypatch):
    """The columns of each picture that was drawn."""
    kept = []
    draw = previews.draw_grid

    def kept_grid(prompts, columns, title):
        kept.append(columns)
        return draw(prompts, columns, title=title)

    monkeypatch.setattr(previews, "draw_grid", kept_grid)
    return kept


def test_previews_show_the_source_image_first(edit_preset, launch, grids, tmp_path):
    write_source(tmp_path / "a.png", (96, 64), 1)
    write_source(tmp_path / "b.png", (96, 64), 300)
    lines = "".join(f"red cat {flag} --w 20 --h 12 --d 1 --s 2\n" for flag in ("--ci a.png", "--cn b.png", ""))
    launch(
        edit_preset(
            sample_prompts=prompt_file(tmp_path, lines, "samples.txt"), sample_every_n_steps=2, max_train_steps=2
        )
    )
    (columns,) = grids
    assert list(columns) == ["source", "base", "student"]
    dark, light, none = columns["source"]
    assert dark.shape == (12, 18, 3)
    expected = Image.open(tmp_path / "a.png").resize((18, 12), Image.Resampling.LANCZOS)
    assert np.array_equal(dark, np.asarray(expected))
    assert dark.mean() < light.mean() < none.mean() == 255
    first, second, third = columns["base"]
    assert first.shape == second.shape == third.shape == (12, 20, 3)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, third)


def test_previews_without_source_images_have_no_such_column(edit_preset, launch, grids, tmp_path):
    lines = prompt_file(tmp_path, "red cat --w 16 --h 16 --s 2\n", "samples.txt")
    launch(edit_preset(sample_prompts=lines, sample_every_n_steps=2, max_train_steps=2))
    assert list(grids[0]) == ["base", "student"]


@pytest.mark.parametrize("name", ["qwen_image_edit", "z_image_omni"])
def test_a_preview_has_its_own_negative_prompt(name, edit_preset, launch, encoded, grids, tmp_path):
    """With its source image where it has one."""
    write_source(tmp_path / "a.png", (96, 64), 7)
    lines = "blue tree --n dog --ci a.png --w 20 --h 12 --l 3 --s 2\nblue tree --n cat --w 20 --h 12 --l 3 --s 2\n"
    samples = prompt_file(tmp_path, lines, "samples.txt")
    launch(edit_preset(name, sample_prompts=samples, sample_every_n_steps=2, max_train_steps=2))
    asked = set(encoded["prompts"]) - {(text, 1) for text, _ in EDITS}
    assert asked == {("", 0), ("blue tree", 1), ("dog", 1), ("blue tree", 0), ("cat", 0)}
    edited, drawn = grids[0]["base"]
    assert not np.array_equal(edited, drawn)
