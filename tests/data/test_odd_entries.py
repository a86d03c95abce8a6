"""Cache entries of another kind, with the right digest: they are encoded again instead of being trained on."""

from __future__ import annotations

import os

import pytest
import torch

from danceopd_ext.data.cache_entries import write_entry
from danceopd_ext.data.latent_cache import _is_latents
from danceopd_ext.data.text_cache import TextCache

ODD = {
    "no latents": {"other": torch.zeros(4, 2, 2)},
    "more than latents": {"latents": torch.zeros(4, 2, 2), "other": torch.zeros(1)},
    "one number": {"latents": torch.tensor(1.0)},
    "true and false": {"latents": torch.zeros(4, 2, 2, dtype=torch.bool)},
}


@pytest.fixture
def cache(tmp_path):
    return TextCache(tmp_path, "vae", what="picture", fits=_is_latents)


@pytest.mark.parametrize("tensors", ODD.values(), ids=ODD)
def test_latents_of_another_kind(cache, tensors):
    cache.put("a", {"latents": torch.ones(4, 2, 2)})
    write_entry(cache.path("a"), tensors, {"text": ascii("a")})
    again = TextCache(cache.folder.parent, "vae", what="picture", fits=_is_latents)
    assert again.missing(["a"]) == ["a"]
    assert "encoded again" in again.notes()[0]


def test_no_tensors_are_no_entry(tmp_path):
    cache = TextCache(tmp_path, "model")
    cache.put("a", {"x": torch.ones(2)})
    write_entry(cache.path("a"), {}, {"text": ascii("a")})
    assert TextCache(tmp_path, "model").missing(["a"]) == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files in folders")
def test_an_entry_that_never_ends(cache):
    cache.put("a", {"latents": torch.ones(4, 2, 2)})
    cache.path("a").unlink()
    os.mkfifo(cache.path("a"))
    cache.path("b").symlink_to("/dev/zero")
    again = TextCache(cache.folder.parent, "vae", what="picture", fits=_is_latents)
    assert again.missing(["a", "b"]) == ["a", "b"]
