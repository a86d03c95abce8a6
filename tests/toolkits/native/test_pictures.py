"""Methods that start from the data's pictures: encoded once, each sample from its own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from danceopd_ext.data.pictures import load_cut
from danceopd_ext.engine import latents
from danceopd_ext.engine import model as engine_model
from danceopd_ext.errors import UserError
from danceopd_ext.models.decoding import decode
from danceopd_ext.models.loading import load_vae
from danceopd_ext.models.model_files import find_model_files
from danceopd_ext.toolkits.native.encoding import FEWER_PICTURES
from tests.tiny.presets import write_preset
from tests.toolkits.native.fields import build
from tests.toolkits.runs import log_of, says


@pytest.mark.parametrize("family", ["sd3", "z_image"])
def test_latents_of_a_picture_are_the_pipelines_own(pipelines, pictures, tmp_path, family):
    """As diffusers' image processor and VAE give them, and decoding them gives the VAE's own picture of it."""
    keys = {"method": "joint", "prompts": pictures, "resolution": 16}
    preset = write_preset(tmp_path / "run", pipelines[family], {"one": {}, "two": {}}, **keys)
    built = build(preset)
    (item,) = [item for item in built.plan.data.items() if item.picture.path.name == "two1.png"]
    found = built.data.encodings.pictures.get(item)

    vae = load_vae(find_model_files(str(pipelines[family])), torch.float32)
    cut = Image.fromarray(load_cut(item.picture, (16, 16)))
    pixels = VaeImageProcessor(vae_scale_factor=2).preprocess(cut)
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode()
        expected = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        decoded = VaeImageProcessor(vae_scale_factor=2).postprocess(vae.decode(latents).sample, output_type="np")
    assert torch.allclose(found, expected[0], atol=1e-5)
    assert np.abs(decode(vae, found[None])[0] / 255.0 - decoded[0]).max() < 0.51 / 255


def test_every_sample_starts_from_its_own_picture(pipelines, pictures, tmp_path):
    keys = {"method": "offpolicy", "prompts": pictures, "train_batch_size": 2}
    built = build(write_preset(tmp_path / "run", pipelines["sd3"], {"one": {}, "two": {}}, **keys))
    data = built.data
    for step in range(12):
        (planned,) = data.plan.parts(step)
        (batch,) = data(planned.route, step)
        items = [data.plan.routes[planned.route].items[i] for m in planned.micro_batches for i in m.item_ids]
        assert len(batch.clean_latents) == len(items) == 4
        for target, item in zip(batch.clean_latents, items, strict=True):
            assert torch.equal(target, data.encodings.pictures.get(item))


def test_two_processes_share_a_step_of_every_route(pipelines, pictures, tmp_path):
    keys = {"method": "diffusionopd", "prompts": pictures, "train_batch_size": 2}
    built = build(write_preset(tmp_path / "run", pipelines["sd3"], {"one": {}, "two": {}}, **keys))
    data, found = built.data, {}
    data.world = 2
    for data.rank in (0, 1):
        for route in ("one", "two"):
            (batch,) = data(route, 0)
            assert batch.total == 8
            found[data.rank, route] = batch.indices
    assert sorted(index for indices in found.values() for index in indices) == list(range(8))
    assert found[0, "one"] == [0, 2]
    with pytest.raises(ValueError, match="planned for one, two, not three"):
        data("three", 0)


def test_pictures_are_encoded_once(taught, monkeypatch, tmp_path):
    loaded = []
    monkeypatch.setattr(engine_model, "load_vae", lambda *found: loaded.append(1) or load_vae(*found))
    once = {"max_train_steps": 1, "train_batch_size": 1, "text_encoder_cache_dir": str(tmp_path / "cache")}
    taught("joint", "first", **once)
    taught("offpolicy", "second", **once)
    assert len(loaded) == 1


def test_pictures_that_do_not_fit_on_the_disk(monkeypatch, tmp_path):
    """A picture of 64 x 64 has 4 x 8 x 8 numbers of 4 bytes, and a header."""
    model = SimpleNamespace(latent_shape=lambda width, height: (4, height // 8, width // 8))
    for free, fits in ((1536, True), (1535, False)):
        monkeypatch.setattr(latents.shutil, "disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
        if fits:
            latents.check_room(model, tmp_path, [(64, 64)], FEWER_PICTURES)
        else:
            with pytest.raises(UserError, match="encoded pictures need"):
                latents.check_room(model, tmp_path, [(64, 64)], FEWER_PICTURES)


def test_a_method_without_pictures_opens_none(taught, capsys, tmp_path):
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    taught("danceopd", max_train_steps=1)
    assert 'pictures of 4 items are not used: method = "danceopd" needs no pictures' in capsys.readouterr().out


def test_off_policy_tells_where_pictures_are_missing(taught, pictures, capsys):
    for name in ("one", "two"):
        path = Path(pictures[name])
        path.write_text(path.read_text(encoding="utf-8").replace("one0", "one1") + f"{name} more,\n", encoding="utf-8")
    taught("offpolicy", max_train_steps=1)
    assert "2 of 6 items have no picture" in capsys.readouterr().out


def test_joint_training_from_a_dataset_folder(ran, tmp_path):
    folder = tmp_path / "cats"
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (40, 24), (200, 30 * number, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("red cat", encoding="utf-8")
    config = tmp_path / "dataset.toml"
    config.write_text(
        "[[datasets]]\nresolution = 16\nenable_bucket = true\nmin_bucket_reso = 8\nbucket_reso_steps = 4\n"
        f"caption_extension = '.txt'\n[[datasets.subsets]]\nimage_dir = '{folder}'\n",
        encoding="utf-8",
    )
    output = ran({"base": {}}, family="sd3", method="joint", dataset_config=str(config), prompts={})
    assert len(log_of(output)) == 2


def test_joint_training_without_pictures(changed, refused, strong):
    says(refused(changed(strong, method="joint")), 'method = "joint"', "line 1", "8 of 8", "image_dir", "target")


def cut_off(path):
    """A JPEG whose header is whole and whose pixels are not."""
    Image.open(path).resize((96, 80)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda path: path.unlink(), "not found"),
        (lambda path: path.write_bytes(b"not a picture"), "the picture cannot be read"),
        (cut_off, "the picture cannot be read (image file is truncated"),
    ],
)
def test_a_picture_that_cannot_be_read(changed, refused, strong, pictures, tmp_path, monkeypatch, spoil, word):
    monkeypatch.setattr(engine_model, "load_text_pipeline", lambda *_: pytest.fail("a model was loaded"))
    spoil(tmp_path / "pictures" / "two1.png")
    says(refused(changed(strong, method="joint", prompts=pictures)), "two1.png", word)
