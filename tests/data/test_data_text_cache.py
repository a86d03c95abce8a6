"""The cache of encoded prompts: what goes in comes out, and what is damaged counts as missing."""

import shutil
import threading

import pytest
import torch

from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.data.text_cache import TextCache
from danceopd_ext.errors import UserError


def encoded(number=0.0):
    return {"embeds": torch.full((3, 4), number), "mask": torch.tensor([1, 1, 0])}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("text", ["a cat", "", "猫, ein Bär 🐻", 'quotes " and\nlines', "x" * 5000, "\ud800"])
def test_what_goes_in_comes_out(tmp_path, text):
    TextCache(tmp_path, "key").put(text, encoded(2.5))
    cache = TextCache(tmp_path, "key")
    assert cache.missing([text, "other", "other"]) == ["other"]
    assert same(cache.get(text), encoded(2.5))


def test_floats_are_stored_in_the_dtype_asked_for_and_integers_stay(tmp_path):
    cache = TextCache(tmp_path, "key", torch.bfloat16)
    cache.put("a", encoded(1.5))
    found = cache.get("a")
    assert (found["embeds"].dtype, found["mask"].dtype) == (torch.bfloat16, torch.int64)


def test_slices_of_a_batch_that_needs_gradients_can_be_stored(tmp_path):
    batch = torch.arange(24.0).reshape(2, 3, 4).requires_grad_()
    cache = TextCache(tmp_path, "key")
    cache.put("a", {"one": batch[1], "same": batch[1], "turned": batch[1].T})
    assert torch.equal(cache.get("a")["turned"], batch[1].T)
    assert not cache.get("a")["one"].requires_grad


def test_models_do_not_share_entries(tmp_path):
    TextCache(tmp_path, "one").put("a", encoded())
    assert TextCache(tmp_path, "two").missing(["a"]) == ["a"]


def test_a_missing_entry_is_a_key_error(tmp_path):
    with pytest.raises(KeyError, match="no encoded prompt for 'a'"):
        TextCache(tmp_path, "key").get("a")


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "folder", "other text"])
def test_a_damaged_entry_is_missing_and_can_be_written_anew(tmp_path, damage):
    writer = TextCache(tmp_path, "key")
    writer.put("a", encoded(1))
    writer.put("b", encoded(2))
    path = writer.path("a")
    data = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        other = writer.path("b").read_bytes()
        path.write_bytes({"cut": data[:-5], "header": b"\xff" * 40, "empty": b"", "other text": other}[damage])
    cache = TextCache(tmp_path, "key")
    assert cache.missing(["a", "b"]) == ["a"]
    with pytest.raises(KeyError):
        cache.get("a")
    if damage == "folder":
        path.rmdir()
    cache.put("a", encoded(3))
    assert same(cache.get("a"), encoded(3))


def test_a_new_entry_replaces_the_one_in_memory(tmp_path):
    cache = TextCache(tmp_path, "key")
    cache.put("a", encoded(1))
    cache.get("a")
    cache.put("a", encoded(2))
    assert same(cache.get("a"), encoded(2))


def test_memory_holds_what_was_read_lately_and_no_more_than_the_budget(tmp_path):
    entry_bytes = 3 * 4 * 4 + 3 * 8
    cache = TextCache(tmp_path, "key", memory_bytes=2 * entry_bytes)
    for text in "abc":
        cache.put(text, encoded())
    cache.get("a"), cache.get("b"), cache.get("a"), cache.get("c")
    shutil.rmtree(cache.folder)
    assert same(cache.get("a"), encoded())
    assert same(cache.get("c"), encoded())
    with pytest.raises(KeyError):
        cache.get("b")


def test_only_missing_texts_are_encoded_once_each_in_batches(tmp_path):
    cache = TextCache(tmp_path, "key")
    cache.put("b", encoded(9))
    batches = []

    def encode(texts):
        batches.append(texts)
        return [encoded(ord(text)) for text in texts]

    assert cache.encode_missing(["a", "b", "c", "a", "d"], encode, batch_size=2, progress=False) == 3
    assert batches == [["a", "c"], ["d"]]
    assert same(cache.get("c"), encoded(ord("c")))
    assert same(cache.get("b"), encoded(9))
    assert cache.encode_missing("abcd", encode, progress=True) == 0


def test_what_was_encoded_before_an_interruption_is_kept(tmp_path):
    cache = TextCache(tmp_path, "key")

    def encode(texts):
        if "b" in texts:
            raise KeyboardInterrupt
        return [encoded() for _ in texts]

    with pytest.raises(KeyboardInterrupt):
        cache.encode_missing("abc", encode, progress=False)
    assert cache.missing("abc") == ["b", "c"]


def test_an_encoder_that_gives_too_few_results_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        TextCache(tmp_path, "key").encode_missing("ab", lambda texts: [encoded()], batch_size=2, progress=False)


def test_several_writers_of_one_entry_do_not_clash(tmp_path):
    caches = [TextCache(tmp_path, "key") for _ in range(4)]
    errors = []

    def write(cache):
        try:
            for _ in range(20):
                cache.put("a", encoded(1))
                assert same(TextCache(tmp_path, "key").get("a"), encoded(1))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [path.name for path in caches[0].folder.iterdir()] == [caches[0].path("a").name]


def test_the_estimate_is_close_to_what_the_files_take(tmp_path):
    cache = TextCache(tmp_path, "key", torch.float16)
    example = {"embeds": torch.zeros(77, 64), "pooled": torch.zeros(32)}
    for index in range(5):
        cache.put(f"prompt {index}", example)
    taken = sum(path.stat().st_size for path in cache.folder.iterdir())
    assert taken <= cache.estimate(5, example) < 1.1 * taken


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cache of encoded prompts cannot be written.*another folder"):
        TextCache(tmp_path / "file", "key").put("a", encoded())


@pytest.mark.parametrize("key", ["", "a/b", "a\\b", "c:", "..", "a*"])
def test_a_model_key_must_be_a_folder_name(tmp_path, key):
    with pytest.raises(ValueError, match="cannot be the name of a folder"):
        TextCache(tmp_path, key)


def model(folder):
    (folder / "encoder" / "deep").mkdir(parents=True)
    (folder / "encoder" / "weights.bin").write_bytes(bytes(range(256)) * 1024)
    (folder / "encoder" / "deep" / "config.json").write_text("{}")
    (folder / "vocab.json").write_text("[]")
    return [folder / "encoder", folder / "vocab.json"]


def test_fingerprint_does_not_depend_on_where_the_files_lie(tmp_path):
    before = fingerprint(model(tmp_path / "one"))
    moved = tmp_path / "Größe" / "two"
    moved.parent.mkdir()
    shutil.move(tmp_path / "one", moved)
    (moved / "encoder" / ".cache").mkdir()
    (moved / "encoder" / ".cache" / "download.lock").write_text("x")
    assert fingerprint([moved / "encoder", moved / "vocab.json"]) == before
    assert len(before) == 16


@pytest.mark.parametrize("change", ["first byte", "middle byte", "last byte", "size", "name", "more", "order"])
def test_fingerprint_sees_every_change(tmp_path, change):
    paths = model(tmp_path)
    before = fingerprint(paths)
    weights = tmp_path / "encoder" / "weights.bin"
    data = weights.read_bytes()
    if change == "first byte":
        weights.write_bytes(b"\x07" + data[1:])
    elif change == "middle byte":
        weights.write_bytes(data[:130_000] + b"\x07" + data[130_001:])
    elif change == "last byte":
        weights.write_bytes(data[:-1] + b"\x07")
    elif change == "size":
        weights.write_bytes(data[:100_000] + data)
    elif change == "name":
        weights.rename(weights.with_name("model.bin"))
    elif change == "more":
        (tmp_path / "encoder" / "extra").write_text("")
    else:
        paths.reverse()
    assert fingerprint(paths) != before


def test_fingerprint_sees_a_layer_of_a_large_file(tmp_path):
    weights, size = tmp_path / "weights.safetensors", 256 * 1024**2
    with open(weights, "wb") as file:
        file.truncate(size)  # takes no room on most disks
    before = fingerprint([weights])
    assert fingerprint([weights]) == before
    for place in (size // 3, size // 2):
        with open(weights, "r+b") as file:
            file.seek(place)
            file.write(b"\x07" * (size // 200))
        after = fingerprint([weights])
        assert after != before
        before = after


def test_fingerprint_reads_a_file_of_16_mib_whole(tmp_path):
    weights = tmp_path / "lora.safetensors"
    weights.write_bytes(bytes(16 * 1024**2))
    before = fingerprint([weights])
    with open(weights, "r+b") as file:
        file.seek(7_654_321)
        file.write(b"\x07")
    assert fingerprint([weights]) != before


def test_fingerprint_sees_which_folder_a_file_lies_in(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, name in ((one, "a"), (one, "b"), (two, "c")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    before = fingerprint([one, two])
    (one / "b").rename(two / "b")
    assert fingerprint([one, two]) != before


def test_fingerprint_of_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no text encoder files"):
        fingerprint([tmp_path / "no"])
