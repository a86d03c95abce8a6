"""The pictures of the data: found, resized and cut as in sd-scripts, encoded once."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from danceopd_ext.data.buckets import BucketRules
from danceopd_ext.data.dataset_toml import read_dataset_config
from danceopd_ext.data.items import Item
from danceopd_ext.data.latent_cache import LatentCache
from danceopd_ext.data.pictures import ItemPicture, inspect_picture, load_cut, shrunk
from danceopd_ext.data.prompts import read_prompts
from danceopd_ext.errors import UserError

IMAGES = [(1000, 600), (300, 200), (512, 512), (2000, 333), (640, 701), (97, 130)]


def noise(size, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)


def save(path, size=(8, 8), seed=1):
    Image.fromarray(noise(size, seed)).save(path)
    return path


# --- sizes: the expected ones were made by sd-scripts' own BucketManager and trim_and_resize_if_required


@pytest.mark.parametrize(
    ("shrink_only", "expected"),
    [
        (False, [(640, 384), (640, 427), (512, 512), (1538, 256), (512, 561), (448, 600)]),
        (True, [(640, 384), (300, 200), (512, 512), (1153, 192), (467, 512), (97, 130)]),
    ],
)
def test_pictures_are_resized_as_by_the_toolkit(shrink_only, expected):
    rules = BucketRules((512, 512), True, 256, 1024, 64, shrink_only)
    assert [rules.resized(image, rules.select(image)) for image in IMAGES] == expected


def test_a_picture_is_averaged_and_its_middle_cut_out_as_by_the_toolkit(tmp_path):
    path = save(tmp_path / "a.png", (7, 5))
    found = load_cut(ItemPicture(path), (2, 2))
    assert found.shape == (2, 2, 3)
    assert found[..., 0].tolist() == [[172, 118], [80, 133]]


def test_a_picture_of_its_size_stays_and_a_smaller_one_is_enlarged(tmp_path):
    path = save(tmp_path / "a.png", (12, 10))
    assert np.array_equal(load_cut(ItemPicture(path), (12, 10)), noise((12, 10)))
    enlarged = np.asarray(Image.fromarray(noise((12, 10))).resize((24, 20), Image.Resampling.LANCZOS))
    assert np.array_equal(load_cut(ItemPicture(path), (20, 20)), enlarged[:, 2:22])


def test_a_dataset_that_does_not_enlarge_cuts_the_picture_as_it_is(tmp_path):
    rules = BucketRules((64, 64), True, 64, 128, 32, bucket_no_upscale=True)
    tiny = save(tmp_path / "b.png", (40, 33))
    assert np.array_equal(load_cut(ItemPicture(tiny, rules), rules.select((40, 33))), noise((40, 33))[0:32, 4:36])


def test_averages_cut_through_pixels():
    assert shrunk(np.array([[0, 30, 60]], np.uint8), 2, axis=1).tolist() == [[10.0, 50.0]]
    assert shrunk(np.array([[0], [10], [20], [30]], np.uint8), 2, axis=0).tolist() == [[5.0], [25.0]]


def test_other_kinds_of_pictures_become_rgb(tmp_path):
    Image.new("LA", (4, 4), (200, 0)).save(tmp_path / "grey.png")
    assert load_cut(ItemPicture(tmp_path / "grey.png"), (4, 4)).tolist() == [[[200] * 3] * 4] * 4


def test_grey_of_16_bits_is_no_white(tmp_path):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    found = load_cut(ItemPicture(tmp_path / "deep.png"), (256, 256))
    assert np.abs(found - ramp[..., None] / 257).max() <= 0.5
    bare = hashlib.sha256((tmp_path / "deep.png").read_bytes()).hexdigest()
    assert not bare.startswith(inspect_picture(tmp_path / "deep.png").digest), "caches of the white one are not used"


def test_a_picture_of_32_bits_is_named(tmp_path):
    Image.new("F", (8, 8)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"a\.tiff: its pixels are 32-bit numbers .*8 or 16 bits"):
        load_cut(ItemPicture(tmp_path / "a.tiff"), (8, 8))


def cut_off(kind):
    """The first two thousand bytes of a picture: its header is whole."""
    file = io.BytesIO()
    Image.fromarray(noise((64, 64))).save(file, kind)
    return file.getvalue()[:2000]


@pytest.mark.parametrize("content", [b"", b"no picture", *map(cut_off, ("PNG", "JPEG", "WEBP"))])
def test_a_file_that_is_no_whole_picture_is_named(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png.*Repair or remove"):
        inspect_picture(path)
        load_cut(ItemPicture(path), (8, 8))


def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch):
    def decode(*_):
        raise RuntimeError("Failed to decode")  # as Pillow's AVIF decoder does

    path = save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "convert", decode)
    with pytest.raises(UserError, match=r"a\.png.*Failed to decode.*Repair or remove"):
        load_cut(ItemPicture(path), (8, 8))


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.png: picture not found"):
        inspect_picture(tmp_path / "a.png")


def test_a_picture_whose_name_cannot_be_one_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\\x00\.png.*cannot be read.*Check the path"):
        inspect_picture(tmp_path / "a\0.png")


@pytest.mark.parametrize("key", ["source", "target"])
def test_a_prompt_file_names_no_such_picture(tmp_path, key):
    """With a width and a height the prompt file is read without a look at its pictures."""
    row = {"prompt": "add a hat", "width": 64, "height": 64, key: "a\0.png"}
    (tmp_path / "p.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(UserError, match=rf"p\.jsonl, line 1: {key} has a null character at position 2"):
        read_prompts(tmp_path / "p.jsonl", [(64, 64)], multiple=16)


# --- where they come from


def test_a_dataset_folder_gives_its_images(tmp_path):
    (tmp_path / "pictures").mkdir()
    save(tmp_path / "pictures" / "one.png", (64, 64))
    (tmp_path / "pictures" / "one.txt").write_text("a cat", encoding="utf-8")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "only.txt").write_text("a dog", encoding="utf-8")
    config = tmp_path / "dataset.toml"
    config.write_text(
        "[[datasets]]\nresolution = 64\nenable_bucket = true\nmin_bucket_reso = 64\ncaption_extension = '.txt'\n"
        f"[[datasets.subsets]]\nimage_dir = '{tmp_path}/pictures'\n"
        f"[[datasets.subsets]]\nimage_dir = '{tmp_path}/texts'\n",
        encoding="utf-8",
    )
    with_image, alone = read_dataset_config(config, ["base"])[0]["base"]
    assert with_image.picture.path == tmp_path / "pictures" / "one.png"
    assert with_image.picture.buckets.enable_bucket
    assert alone.picture is None


def test_a_metadata_file_gives_the_images_that_are_there(tmp_path):
    save(tmp_path / "one.png", (64, 48))
    metadata = tmp_path / "meta.json"
    metadata.write_text(
        '{"one": {"caption": "a cat", "train_resolution": [32, 32]}, "two": {"caption": "a dog"}}', encoding="utf-8"
    )
    config = tmp_path / "dataset.toml"
    config.write_text(
        f"[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = '{tmp_path}'\n"
        f"metadata_file = '{metadata}'\n",
        encoding="utf-8",
    )
    there, missing = read_dataset_config(config, ["base"])[0]["base"]
    assert there.picture == ItemPicture(tmp_path / "one.png")
    assert there.size == (32, 32)
    assert missing.picture is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "prompt,target\na cat,pictures/a.png\na dog,\n"),
        ("p.jsonl", '{"prompt": "a cat", "target": "pictures/a.png"}\n{"prompt": "a dog", "target": null}\n'),
    ],
)
def test_a_prompt_file_names_its_targets(tmp_path, name, content):
    (tmp_path / "pictures").mkdir()
    save(tmp_path / "pictures" / "a.png")
    (tmp_path / name).write_text(content, encoding="utf-8")
    cat, dog = read_prompts(tmp_path / name, [(16, 16)])[0]
    assert cat.picture == ItemPicture(tmp_path / "pictures" / "a.png")
    assert dog.picture is None


def test_a_target_that_is_no_path_is_refused(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a cat", "target": 3}', encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1: target = 3 is wrong"):
        read_prompts(tmp_path / "p.jsonl", [(16, 16)])


# --- the cache


def item(path, size=(8, 8), buckets=None):
    return Item("a", *size, picture=ItemPicture(path, buckets))


def cache_of(folder, *items):
    return LatentCache(folder, "vae", {one.picture.path: inspect_picture(one.picture.path) for one in items})


def mean_colour(picture):
    return torch.tensor(picture.astype(np.float32)).mean(dim=(0, 1)).reshape(3, 1, 1)


def test_each_picture_is_encoded_once_wherever_it_lies(tmp_path):
    one, same, other = (save(tmp_path / f"{name}.png", seed=seed) for name, seed in (("1", 1), ("2", 1), ("3", 2)))
    items = [item(one), item(same), item(other), item(one, (4, 8)), item(one)]
    cache = cache_of(tmp_path / "cache", *items)
    seen = []

    def encode(picture):
        seen.append(picture.shape)
        return mean_colour(picture)

    assert len(cache.missing(items)) == 3
    assert cache.encode_missing(items, encode) == 3
    assert sorted(seen) == [(8, 4, 3), (8, 8, 3), (8, 8, 3)]
    assert cache_of(tmp_path / "cache", *items).encode_missing(items, encode) == 0
    assert torch.equal(cache.get(items[1]), mean_colour(noise((8, 8))))
    assert torch.equal(cache.get(items[2]), mean_colour(noise((8, 8), 2)))
    assert torch.equal(cache.get(items[3]), mean_colour(noise((8, 8))[:, 2:6]))


def test_a_picture_that_changed_is_encoded_again(tmp_path):
    path = save(tmp_path / "a.png")
    cache_of(tmp_path / "cache", item(path)).encode_missing([item(path)], mean_colour)
    save(path, seed=3)
    changed = cache_of(tmp_path / "cache", item(path))
    assert len(changed.missing([item(path)])) == 1
    with pytest.raises(KeyError, match="no encoded picture"):
        changed.get(item(path))
