"""GGUF headers that a person wrote to keep a reader busy, and damaged ones: one message, at once."""

from __future__ import annotations

import struct

import pytest

from danceopd_ext.errors import UserError
from danceopd_ext.foreign.gguf_header import read_gguf_names


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def tensor(name: bytes = b"a.weight", axes: tuple[int, ...] = (4,), offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, 0, offset)


def header(*tensors: bytes, values: bytes = b"", counts: tuple[int, int] | None = None, version: int = 3) -> bytes:
    return (
        b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), bool(values)))) + values + b"".join(tensors)
    )


LIST = text(b"list") + struct.pack("<IIQ", 9, 4, 2) + struct.pack("<II", 1, 2)


def test_names(tmp_path):
    values = text(b"word") + struct.pack("<I", 8) + text(b"z_image") + LIST
    (tmp_path / "m.gguf").write_bytes(header(tensor(b"a.weight"), tensor(b"b.bias"), values=values, counts=(2, 2)))
    assert read_gguf_names(tmp_path / "m.gguf") == ["a.weight", "b.bias"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "its end is missing"),
        (b"GGML" + bytes(100), "does not begin with GGUF"),
        (header(tensor(), version=1), "its version is 1"),
        (header(tensor())[:-3], "its end is missing"),
        (header(counts=(2**62, 0)), "tensors, and at most"),
        (header(counts=(1, 2**62)), "more than 100,000 values"),
        (header(values=text(b"list") + struct.pack("<IIQ", 9, 4, 2**60)), "more than 100,000 values"),
        (header(values=text(b"list") + struct.pack("<IIQ", 9, 9, 2) + bytes(99)), "unknown type 9"),
        (header(values=text(b"word") + struct.pack("<I", 99)), "unknown type 99"),
        (header(values=struct.pack("<Q", 2**50)), "a text in it has"),
        (header(tensor(name=b"n" * 2000)), "a text in it has 2,000 bytes"),
        (header(tensor(axes=(1,) * 40)), "has 40 axes"),
        (header(tensor(offset=2**40)), "lies behind the end of the file"),
    ],
)
def test_a_damaged_header_is_told(tmp_path, content, told):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(UserError, match="is not a complete GGUF file") as error:
        read_gguf_names(tmp_path / "m.gguf")
    assert told in str(error.value) and "m.gguf" in str(error.value)
