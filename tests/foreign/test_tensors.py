"""Files of tensors: plain tensors by name come out, or one message; no file takes more memory than it has bytes."""

from __future__ import annotations

import json
import os
import pickle
import socket
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from danceopd_ext.errors import MissingFile, UserError
from danceopd_ext.foreign import tensors
from danceopd_ext.foreign.tensors import read_header, read_pickle, read_tensors

POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files in folders")
GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def written(path, header, data=bytes(8), length=None):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content) if length is None else length) + content + data)
    return path


def refused(path, *readers) -> str:
    """What all readers say, which is the same and names the file."""
    messages = set()
    for reader in readers or (read_tensors, read_header):
        with pytest.raises(UserError) as caught:
            reader(path)
        messages.add(str(caught.value))
    (message,) = messages
    assert path.name in message and message.isprintable() and len(message) < 700
    return message


def test_tensors_names_and_metadata(tmp_path):
    save_file({"a": torch.ones(2, 3), "b.c": torch.zeros(1)}, tmp_path / "x.safetensors", {"title": "one"})
    found, metadata = read_tensors(tmp_path / "x.safetensors")
    assert found["a"].equal(torch.ones(2, 3)) and set(found) == {"a", "b.c"} and metadata == {"title": "one"}
    header = read_header(tmp_path / "x.safetensors")
    assert header.shapes == {"a": (2, 3), "b.c": (1,)} and header.metadata == metadata
    only, _ = read_tensors(tmp_path / "x.safetensors", wanted=lambda name: name == "a")
    assert set(only) == {"a"}


HEADERS = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": [],
    "a number": 7,
    "nested": b"[" * 100_000,
    "nested tables": b'{"a":' * 100_000,
    "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "metadata of a list": {"__metadata__": [], "a": GOOD},
    "metadata of a number": {"__metadata__": {"a": 1}, "a": GOOD},
    "metadata of a table": {"__metadata__": {"a": {}}, "a": GOOD},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
    "a negative size": {"a": GOOD | {"shape": [-2]}},
    "a size of 2**63": {"a": {"dtype": "F32", "shape": [2**63, 0], "data_offsets": [0, 0]}},
    "a size of 2**62": {"a": {"dtype": "F32", "shape": [2**62, 0], "data_offsets": [0, 0]}},
    "sizes that overflow": {"a": GOOD | {"shape": [2**40, 2**40]}},
    "a hundred axes": {"a": {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}},
    "more than there is": {"a": GOOD | {"shape": [2**30], "data_offsets": [0, 2**32]}},
    "another number of bytes": {"a": GOOD | {"shape": [3]}},
    "an unknown dtype": {"a": GOOD | {"dtype": "Q4"}},
    "half a character": b'{"a\\ud800": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    "a name of 10,000 letters": {"a" * 10_000: GOOD},
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_odd_headers(header, tmp_path):
    refused(written(tmp_path / "x.safetensors", header))


@pytest.mark.parametrize("length", [2**63, 2**40, 10**6, 0])
def test_a_header_of_another_length(length, tmp_path):
    refused(written(tmp_path / "x.safetensors", {"a": GOOD}, length=length))


def test_a_header_above_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "MOST_HEADER", 1000)
    path = written(tmp_path / "x.safetensors", {"__metadata__": {"a": "b" * 1000}, "a": GOOD})
    assert "its header has" in refused(path)


def test_more_tensors_than_any_model_has(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "MOST_TENSORS", 3)
    save_file({str(number): torch.zeros(1) for number in range(4)}, tmp_path / "x.safetensors")
    assert "4 tensors" in refused(tmp_path / "x.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_truncated_files(kept, tmp_path):
    save_file({"a": torch.ones(200)}, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:kept])
    assert "download or copy it again" in refused(tmp_path / "x.safetensors")


def test_numbers_that_torch_cannot_compute_with(tmp_path):
    save_file({"a": torch.ones(2, dtype=torch.complex64)}, tmp_path / "x.safetensors")
    message = refused(tmp_path / "x.safetensors", read_tensors)
    assert "a is a complex tensor" in message and "float32, float16 or bfloat16" in message


READERS = (read_tensors, read_header, read_pickle)


def test_a_missing_file_and_a_folder(tmp_path):
    (tmp_path / "x.safetensors").mkdir()
    assert "this is a folder" in refused(tmp_path / "x.safetensors", *READERS[:2])
    assert "this is a folder" in refused(tmp_path / "x.safetensors", lambda path: read_pickle(path, "file of weights"))
    for reader in READERS:
        with pytest.raises(MissingFile):
            reader(tmp_path / "none.safetensors")


@POSIX
@pytest.mark.parametrize("reader", READERS)
def test_what_never_ends(reader, tmp_path):
    os.mkfifo(tmp_path / "fifo.safetensors")
    assert "a pipe" in refused(tmp_path / "fifo.safetensors", reader)
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    assert "a device" in refused(tmp_path / "zero.pt", reader)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "s.pt"))  # the path of a socket is short
        assert "a socket" in refused(tmp_path / "s.pt", reader)


# --- pickles


def test_what_torch_saves_comes_back(tmp_path):
    saved = {
        "a": torch.nn.Parameter(torch.arange(6.0).view(2, 3)),
        "n": {"x": [1, 2.5, None, "t", (True, torch.ones(2))]},
    }
    for new in (True, False):
        torch.save(saved, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
        found = read_pickle(tmp_path / "x.pt")
        assert found["a"].equal(saved["a"]) and not found["a"].requires_grad
        assert found["n"]["x"][:4] == [1, 2.5, None, "t"] and found["n"]["x"][4][1].equal(torch.ones(2))


def test_the_tensors_are_copies(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "x.pt")
    found = read_pickle(tmp_path / "x.pt")
    torch.save({"a": torch.zeros(3)}, tmp_path / "x.pt")
    assert found["a"].equal(torch.ones(3))


def repacked(path, edit=lambda name, data: data, method=zipfile.ZIP_STORED):
    """The pickle at `path` with its parts changed by `edit`, as a zip file of another kind."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in parts.items():
            archive.writestr(name, edit(name, data))
    return path


def test_a_zip_bomb(tmp_path):
    torch.save({"a": torch.zeros(2**22)}, tmp_path / "x.pt")
    path = repacked(tmp_path / "x.pt", method=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**17
    assert "compressed" in refused(path, read_pickle)


def test_a_zip_file_that_two_readers_may_read_otherwise(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.pt")
    with open(tmp_path / "x.pt", "ab") as file:
        file.write(b"behind the end")
    refused(tmp_path / "x.pt", read_pickle)


@pytest.mark.parametrize("count", [10**4, 10**6, 2**31 - 1])
def test_a_pickle_that_says_more_numbers_than_it_has(count, tmp_path):
    torch.save({"a": torch.zeros(4)}, tmp_path / "x.pt")
    four, many = b"K\x04", b"J" + count.to_bytes(4, "little")
    refused(repacked(tmp_path / "x.pt", lambda name, data: data.replace(four, many)), read_pickle)


def test_tensors_that_repeat_their_numbers(tmp_path):
    torch.save({"a": torch.zeros(1).expand(100_000, 100_000)}, tmp_path / "x.pt")
    assert "a repeats numbers" in refused(tmp_path / "x.pt", read_pickle)
    whole = torch.zeros(2**20)
    torch.save({str(number): whole[number:] for number in range(60)}, tmp_path / "x.pt")
    assert "repeats numbers" in refused(tmp_path / "x.pt", read_pickle)


def test_tensors_that_share_memory_are_read(tmp_path):
    whole, alpha = torch.randn(6, 4), torch.tensor(4.0)
    torch.save({"q": whole[:3], "k": whole[3:], "v": whole[:3]} | dict.fromkeys("abcdef", alpha), tmp_path / "x.pt")
    found = read_pickle(tmp_path / "x.pt")
    assert found["v"].equal(whole[:3]) and found["f"] == 4


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(2, dtype=torch.complex64), torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta")],
    ids=["complex", "sparse", "meta"],
)
def test_tensors_of_other_kinds(tensor, tmp_path):
    torch.save({"state": {"a": tensor}}, tmp_path / "x.pt")
    assert "state.a is a" in refused(tmp_path / "x.pt", read_pickle)


def doubled(value, times):
    for _ in range(times):
        value = [value, value]
    return value


def nested(value, times):
    for _ in range(times):
        value = [value]
    return value


ODD = {
    "nested": nested(1, 100),
    "lists that share lists": doubled(1, 25),
    "a number of a thousand digits": {"a": 10**1000},
    "a key of a thousand digits": {10**1000: 1},
    "a key that is a list": {(1, 2): 1},
    "a name of 10,000 letters": {"a" * 10_000: 1},
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_odd_values(value, tmp_path):
    torch.save(value, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", read_pickle)


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))])
def test_nothing_in_a_pickle_runs(how, tmp_path):
    how({"a": Bomb(tmp_path / "exploded")}, tmp_path / "x.pt")
    assert "refused" in refused(tmp_path / "x.pt", read_pickle)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"PK\x03\x04" * 20, b"\x80\x02.", b"\x80\x02K\x00", b"text" * 9]
)
def test_damaged_pickles(content, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    refused(tmp_path / "x.pt", read_pickle)


@pytest.mark.parametrize("new", [True, False])
def test_truncated_pickles(new, tmp_path):
    torch.save({"a": torch.ones(100)}, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
    whole = (tmp_path / "x.pt").read_bytes()
    for kept in (10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x.pt").write_bytes(whole[:kept])
        refused(tmp_path / "x.pt", read_pickle)
