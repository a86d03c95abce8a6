"""sd-scripts' datasets as routes, on the stand-in of its trainer."""

# ruff: noqa: F811 - the fixture is imported

from __future__ import annotations

import pickle
from collections import Counter

import pytest

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.distiller import Distiller
from tests.toolkits.sd_scripts import stand_in as sd
from tests.toolkits.sd_scripts.datasets import Dataset, Subset
from tests.toolkits.sd_scripts.world import both, train  # noqa: F401


def test_routes_keep_their_shares_over_all_datasets(train, monkeypatch):
    seen = Counter()
    loss = Distiller.loss
    monkeypatch.setattr(
        Distiller, "loss", lambda self, unet, c, shape: (seen.update(c.routes), loss(self, unet, c, shape))[1]
    )
    other = Dataset([(Subset({"teacher": "base"}), ["one", "two", "three", "four"])])
    trainer = train({"routes": {"style": 3.0}}, datasets=[both(), other], max_train_steps=200)
    assert seen["style"] / sum(seen.values()) == pytest.approx(0.75, abs=0.03)
    assert {"loss/base", "loss/style"} <= {name for _, logs in trainer.logs for name in logs}


def test_a_route_without_weight_is_never_seen(train, monkeypatch):
    trainer = train({"routes": {"base": 0.0}}, max_train_steps=6)
    assert not any("loss/base" in logs for _, logs in trainer.logs)


def test_what_is_wrong_with_the_data_is_said(train):
    def only(**attributes):
        return [Dataset([(Subset(attributes), ["a cat"])])]

    with pytest.raises(UserError, match='"stile" is not a teacher of the preset'):
        train(datasets=only(teacher="stile"))
    with pytest.raises(UserError, match="which teacher is this data for"):
        train(datasets=only())
    with pytest.raises(UserError, match='the teacher "style" has no data'):
        train(datasets=only(teacher="base"))
    with pytest.raises(UserError, match="regularisation images"):
        train(datasets=[Dataset([(Subset({"teacher": "base"}, is_reg=True), ["a cat"])])])
    with pytest.raises(UserError, match="shuffle_caption is on"):
        train(datasets=[both(shuffle_caption=True)])


class InlineTable(dict):
    """toml's: of a class that is made inside a function, which pickle cannot find."""

    def __reduce__(self):
        raise pickle.PicklingError("inline table")


def test_inline_tables_become_plain(train):
    dataset = Dataset([(Subset(InlineTable(teacher="style", more=InlineTable())), ["ink cat"])])
    train({"routes": {"base": 0.0}}, datasets=[dataset])
    assert pickle.loads(pickle.dumps(dataset.subsets[0].custom_attributes)) == {"teacher": "style", "more": {}}


def test_fixed_captions_are_completed_before_they_are_cached(train):
    dataset = both(caption_prefix="photo of")
    train(datasets=[dataset], max_train_steps=1)
    assert {info.caption for info in dataset.image_data.values()} >= {"photo of a cat", "photo of ink cat"}


def test_no_picture_is_read(train):
    dataset = both()
    train(datasets=[dataset], max_train_steps=1)
    assert all(float(info.latents.abs().sum()) == 0 for info in dataset.image_data.values())
    assert {tuple(info.latents.shape) for info in dataset.image_data.values()} == {(1, 1, sd.WIDTH)}
