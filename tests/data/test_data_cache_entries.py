"""Cache files with a digest: one changed byte is seen, and so is a file of an earlier version."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from danceopd_ext.data.cache_entries import (
    DAMAGED,
    DIGEST,
    NOT_FINITE,
    UNDIGESTED,
    UnusableEntry,
    add_digest,
    digest_of,
    read_entry,
    write_entry,
)
from danceopd_ext.data.text_cache import BrokenEncoding, NoEntry, TextCache

TENSORS = {
    "embeds": torch.linspace(-1, 1, 12).reshape(3, 4).to(torch.bfloat16),
    "mask": torch.tensor([1, 1, 0]),
    "is_long": torch.tensor(True),
    "nothing": torch.zeros(0, 4),
}


def flip(path, place: int) -> None:
    """Change one bit of one byte of a file; places below 0 count from its end."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0x01
    path.write_bytes(data)


def header_bytes(path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def why(path) -> str:
    with pytest.raises(UnusableEntry) as error:
        read_entry(path)
    return error.value.why


@pytest.fixture
def entry(tmp_path):
    path = tmp_path / "a.safetensors"
    write_entry(path, TENSORS, {"text": "a cat"})
    return path


def test_what_is_written_is_read(entry):
    tensors, metadata = read_entry(entry)
    assert metadata["text"] == "a cat"
    assert tensors.keys() == TENSORS.keys()
    assert all(tensors[name].equal(TENSORS[name]) and tensors[name].dtype == TENSORS[name].dtype for name in TENSORS)


def test_one_flipped_bit_anywhere_in_the_numbers_is_seen(entry):
    start, whole = header_bytes(entry), entry.read_bytes()
    for place in range(start, len(whole)):
        flip(entry, place)
        assert why(entry) == DAMAGED
        entry.write_bytes(whole)
    assert read_entry(entry)


def test_a_flipped_bit_in_the_header_is_never_taken_for_other_numbers(entry):
    """It is damaged, has no digest any more, or says something else beside the tensors."""
    start, whole = header_bytes(entry), entry.read_bytes()
    for place in range(start):
        flip(entry, place)
        try:
            tensors, _ = read_entry(entry)
        except UnusableEntry as problem:
            assert problem.why in (DAMAGED, UNDIGESTED)
        else:
            assert digest_of(tensors) == digest_of(TENSORS)
        entry.write_bytes(whole)


@pytest.mark.parametrize("change", ["name", "dtype", "shape", "more"])
def test_the_digest_is_of_names_and_shapes_as_well(change):
    other = dict(TENSORS)
    if change == "name":
        other["embed"] = other.pop("embeds")
    elif change == "dtype":
        other["embeds"] = other["embeds"].view(torch.int16)
    elif change == "shape":
        other["embeds"] = other["embeds"].reshape(4, 3)
    else:
        other["more"] = torch.zeros(0)
    assert digest_of(other) != digest_of(TENSORS)
    assert digest_of(dict(reversed(TENSORS.items()))) == digest_of(TENSORS)


def test_an_entry_of_an_earlier_version(entry):
    save_file(load_file(entry), entry, {"text": "a cat"})
    assert why(entry) == UNDIGESTED


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite(entry, wrong):
    tensors = {**TENSORS, "embeds": TENSORS["embeds"].clone()}
    tensors["embeds"][1, 2] = wrong
    write_entry(entry, tensors)
    assert why(entry) == NOT_FINITE


def test_a_file_of_another_program_gets_its_digest(tmp_path):
    path = tmp_path / "theirs.safetensors"
    save_file(TENSORS, path, {"format": "theirs"})
    assert add_digest(path) is None
    tensors, metadata = read_entry(path)
    assert metadata["format"] == "theirs" and tensors["mask"].equal(TENSORS["mask"])
    save_file({"text": torch.tensor([float("nan")])}, path)
    assert add_digest(path) == "text"


# --- the cache that is made of them


@pytest.fixture
def cache(tmp_path):
    made = TextCache(tmp_path, "key")
    for number, text in enumerate(("a", "b", "c")):
        made.put(text, {"embeds": torch.full((2, 3), float(number))})
    return lambda **more: TextCache(tmp_path, "key", **more)


def test_damaged_and_old_entries_are_encoded_again_and_told_of(cache):
    flip(cache().path("a"), -3)
    save_file(load_file(cache().path("c")), cache().path("c"), {"text": "'c'"})
    again = cache()
    assert again.missing("abc") == ["a", "c"]
    told = again.notes()
    assert [note.partition(": ")[2] for note in told] == [
        "1 encoded prompt is damaged (the digest of the file differs): encoded again",
        "1 encoded prompt is from an earlier version, without a digest: encoded again",
    ]
    assert again.notes() == []
    again.encode_missing("abc", lambda texts: [{"embeds": torch.zeros(1)} for _ in texts], progress=False)
    assert cache().missing("abc") == [] and not cache().notes()


def test_an_entry_that_is_damaged_in_the_middle_of_a_run(cache):
    """No memory: each step reads its entries from the disk."""
    running = cache(memory_bytes=0)
    assert running.missing("abc") == []
    assert float(running.get("b")["embeds"][0, 0]) == 1.0
    flip(running.path("b"), -1)
    with pytest.raises(NoEntry, match=rf"{running.path('b').name} is missing or damaged. .*--resume"):
        running.get("b")


def test_every_file_is_read_once_to_find_what_is_missing(cache, monkeypatch):
    from danceopd_ext.data import text_cache

    asked = []
    monkeypatch.setattr(text_cache, "read_entry", lambda path: asked.append(path) or read_entry(path))
    again = cache(memory_bytes=0)
    for _ in range(3):
        assert again.missing("abc") == []
    assert len(asked) == 3


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_an_encoder_that_gives_nan_is_told_and_nothing_is_written(tmp_path, wrong):
    cache = TextCache(tmp_path, "key", what="picture")
    with pytest.raises(BrokenEncoding, match=r'encoding the picture "a red cat" gave NaN or infinite .*\(in latents\)'):
        cache.put("a red cat", {"latents": torch.tensor([0.0, wrong])})
    assert cache.missing(["a red cat"]) == ["a red cat"]


def test_numbers_too_large_for_the_format_of_the_cache(tmp_path):
    with pytest.raises(BrokenEncoding):
        TextCache(tmp_path, "key", torch.float16).put("a", {"embeds": torch.tensor([1e6])})


def test_the_digest_stands_in_the_header(cache):
    path = cache().path("a")
    header = json.loads(path.read_bytes()[8 : header_bytes(path)])
    assert header["__metadata__"][DIGEST] == digest_of(load_file(path))
