"""Encoded prompts of hosted runs: what is damaged is encoded again, and NaN is told."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from danceopd_ext.data.cache_entries import read_entry
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.musubi import text_cache
from danceopd_ext.toolkits.musubi.prompt_data import text_path, write_zero_latents
from danceopd_ext.toolkits.sd_scripts.text_cache_files import remove_damaged


def flip_a_bit(path, place=-5) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


# --- musubi-tuner


@pytest.fixture
def encode(monkeypatch, tmp_path):
    """Encode texts as the trainer does; which of them were encoded, and their number."""
    module = ModuleType("musubi_tuner.dataset.image_video_dataset")

    class ItemInfo(SimpleNamespace):
        def __init__(self, key, caption, *sizes):
            super().__init__(caption=caption)

    module.ItemInfo = ItemInfo
    for name in ("musubi_tuner", "musubi_tuner.dataset"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    device = torch.device("cpu")
    accelerator = SimpleNamespace(
        process_index=0, num_processes=1, device=device, is_local_main_process=False, wait_for_everyone=lambda: None
    )

    def encode(*wanted, number=1.0):
        done = []

        def write(items):
            for item in items:
                done.append(item.caption)
                tensors = {"varlen_embed_float32": torch.full((2, 3), number)}
                save_file(tensors, item.text_encoder_output_cache_path, {"format": "theirs"})

        text_cache.encode_texts(wanted, SimpleNamespace(text_encoder=lambda device: write), tmp_path, accelerator)
        return done

    return encode


def test_musubis_files_get_a_digest_and_are_encoded_once(encode, tmp_path):
    assert encode("a", "b", "a") == ["a", "b"]
    assert encode("a", "b") == []
    tensors, metadata = read_entry(text_path(tmp_path, "a"))
    assert metadata["format"] == "theirs" and float(tensors["varlen_embed_float32"][0, 0]) == 1.0


@pytest.mark.parametrize("damage", ["flipped", "old", "nan"])
def test_musubis_files_that_have_changed_are_encoded_again(encode, tmp_path, capsys, damage):
    encode("a", "b")
    path = text_path(tmp_path, "b")
    if damage == "flipped":
        flip_a_bit(path)
    else:
        tensors = load_file(path)
        if damage == "nan":
            tensors["varlen_embed_float32"][0, 0] = float("nan")
        save_file(tensors, path)
    assert encode("a", "b") == ["b"]
    assert "1 encoded prompt is" in capsys.readouterr().out
    assert encode("a", "b") == []


def test_an_encoder_of_musubi_that_gives_nan(encode, tmp_path):
    with pytest.raises(UserError, match=r'the prompt "a red cat" is encoded to NaN.*text encoder'):
        encode("a red cat", number=float("nan"))
    assert not list(tmp_path.glob("*.safetensors"))


def test_empty_latents_that_are_damaged_are_written_again(tmp_path):
    adapter = SimpleNamespace(latent_shape=lambda width, height: (4, height // 8, width // 8))
    items = [SimpleNamespace(size=(16, 16))]
    write_zero_latents(items, adapter, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    write_zero_latents(items, adapter, tmp_path)
    assert path.read_bytes() == whole


# --- sd-scripts


@pytest.fixture
def cache(tmp_path):
    for name in "abc":
        np.savez(tmp_path / f"{name}_te.npz", embed=np.ones((4, 5), np.float32), mask=np.ones(4, np.int64))
    return tmp_path


def test_sound_files_of_sd_scripts_stay(cache):
    assert remove_damaged(cache) == [] and len(list(cache.iterdir())) == 3


def test_files_of_sd_scripts_with_one_changed_bit_are_removed(cache):
    whole = (cache / "a_te.npz").read_bytes()
    flip_a_bit(cache / "a_te.npz", whole.index(np.ones(5, np.float32).tobytes()))
    np.savez(cache / "b_te.npz", embed=np.full((4, 5), np.nan, np.float32))
    (cache / "c_te.npz").write_bytes(whole[:-30])
    (cache / "text.txt").write_text("not ours")
    notes = remove_damaged(cache)
    assert [note.partition(": ")[2].partition(" (")[0] for note in notes] == [
        "2 encoded prompts are damaged",
        "1 encoded prompt is with NaN or infinite numbers: encoded again",
    ]
    assert [path.name for path in cache.iterdir()] == ["text.txt"]
