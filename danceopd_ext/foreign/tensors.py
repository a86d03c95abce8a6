"""Reads files of tensors: safetensors, and pickles without running anything in them.

The results are tensors of plain numbers in ordinary memory, with names and metadata that are text. No file takes more
memory than it has bytes, except for a few shared tensors: a compressed pickle and a tensor that repeats its numbers are
refused.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from danceopd_ext.errors import UserError, printable, shorten
from danceopd_ext.foreign.files import MIB, check_file

#: the most bytes of a safetensors header; those of the largest models have a tenth of them
MOST_HEADER = 32 * MIB
#: the most tensors of a file, and characters of a name
MOST_TENSORS, LONGEST_NAME = 100_000, 1000
#: the most axes of a tensor, and entries of one axis; a video model's kernels have five axes
MOST_AXES, LONGEST_AXIS = 8, 2**40
#: limits of a pickle: depth of nesting, number of values, and how often the same numbers may be used
DEEPEST, MOST_VALUES, MOST_USES = 32, 1_000_000, 16

_ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    `shapes`: name of a tensor -> its sizes. `kinds`: name -> its number format, in the file's words, such as "BF16" or
    "F8_E4M3".
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)


def read_header(path: Path, what: str = "file of weights") -> Header:
    """Return a safetensors file's header, without reading a tensor. Raises UserError."""
    with _opened(path, what) as file:
        return _header(path, file)


def read_tensors(
    path: Path, what: str = "file of weights", wanted: Callable[[str], bool] | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return (tensors by name, metadata) of a safetensors file; with `wanted`, only of the names it accepts.

    The tensors are in the file's memory map: clone those that must outlive it. Raises UserError, which names the file,
    if it is not a regular file, is damaged or beyond the limits, and for a tensor that is not plain numbers.
    """
    with _opened(path, what) as file:
        header = _header(path, file)
        names = [name for name in header.shapes if wanted is None or wanted(name)]
        tensors = {name: file.get_tensor(name) for name in names}
    for name, tensor in tensors.items():
        check_plain(path, name, tensor)
    return tensors, header.metadata


def read_pickle(path: Path, what: str = "file of tensors") -> Any:
    """Return the content of a file of torch.save, as tables, lists and plain values, without running anything in it.

    The tensors are copies. Raises UserError for what `read_tensors` refuses, for a file that holds more than plain
    tensors and values, and for one that would take more memory than it has bytes.
    """
    size = check_file(path, what).st_size
    try:
        with open(path, "rb") as file:
            zipped = file.read(len(_ZIP)) == _ZIP
    except OSError as error:
        raise UserError(f"{path}: the {what} cannot be read: {error.strerror or error}.") from None
    if zipped:
        _check_zip(path, size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about odd pickles, which the message below covers
            # with a memory map, torch trusts no size in the pickle that exceeds the file
            content = torch.load(os.fspath(path), map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # whatever torch's reader raises for a damaged pickle
        raise UserError(
            f"{path}: refused: a {path.suffix} file can run code when it is opened, and this one is damaged or holds"
            " more than plain tensors. Ask for a .safetensors file."
        ) from error
    return _Copy(path, size).of(content)


def check_plain(path: Path, name: str, tensor: torch.Tensor) -> None:
    """Raise UserError, which names file and tensor, unless the tensor is real numbers that torch can compute with."""
    odd = tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta
    try:
        if not odd:
            tensor.flatten()[:1].float()
    except (RuntimeError, NotImplementedError):
        odd = True
    if odd:
        kind = "complex" if tensor.is_complex() else str(tensor.dtype).removeprefix("torch.")
        raise UserError(
            f"{path}: {shorten(printable(name), 200)} is a {kind} tensor whose numbers cannot be read directly. "
            "Use "
            "the file in float32, float16 or bfloat16."
        )


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Any]:
    """Open a safetensors file; everything wrong with it, or with what is read from it, becomes a UserError."""
    size = check_file(path, what).st_size
    try:
        with open(path, "rb") as raw:
            stated = int.from_bytes(raw.read(8), "little")
        if size >= 8 and MOST_HEADER < stated <= size:
            raise UserError(
                f"{path}: its header has {stated / MIB:,.1f} MiB, and at most {MOST_HEADER / MIB:g} MiB are read."
            )
        with safe_open(path, framework="pt") as file:
            yield file
    except UserError:
        raise
    except Exception as error:  # safetensors' own, Python's, and torch's for sizes and dtypes that it does not have
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        why = printable(shorten(why.removeprefix("Error while deserializing header: "), 200))
        raise UserError(
            f"{path} is not a complete .safetensors file ({why}; {size:,} bytes): download or copy it again."
        ) from error


def _header(path: Path, file: Any) -> Header:
    names = list(file.keys())
    if len(names) > MOST_TENSORS:
        raise UserError(f"{path}: it has {len(names):,} tensors, and at most {MOST_TENSORS:,} are read.")
    for name in names:
        _check_name(path, name)
    slices = {name: file.get_slice(name) for name in names}
    shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
    for name, shape in shapes.items():
        if len(shape) > MOST_AXES or any(size > LONGEST_AXIS for size in shape):
            shown = shorten(f"{shape}", 60)
            raise UserError(
                f"{path}: {shorten(printable(name), 200)} has the shape {shown}, which no model's weights have."
                " Download or copy the file again."
            )
    kinds = {name: str(one.get_dtype()) for name, one in slices.items()}
    return Header(path, shapes, dict(file.metadata() or {}), kinds)


def _check_name(path: Path, name: Any) -> None:
    """Raise UserError for a key that cannot be the name of a tensor or the number of a value."""
    if isinstance(name, str):
        if len(name) > LONGEST_NAME:
            raise UserError(
                f"{path}: a name in it has {len(name):,} characters, and at most {LONGEST_NAME:,} are read: "
                f"{shorten(printable(name[:200]))}."
            )
    elif not isinstance(name, int | float | None) or (isinstance(name, int) and abs(name) >= 2**63):
        raise UserError(f"{path}: refused: a key in it is a {type(name).__name__}, not a name. Is it the right file?")


def _check_zip(path: Path, size: int) -> None:
    """Raise UserError for a pickle that is compressed, which torch's own never is, or whose parts overlap."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, size - 22))
            ends = file.read(4) == b"PK\x05\x06"  # the place where every reader of zip files begins
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except Exception as error:  # whatever Python's reader raises for a damaged archive
        raise UserError(f"{path} is truncated or damaged ({error}): download or copy it again.") from error
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    if packed or not ends or sum(part.file_size for part in parts) > size:
        raise UserError(
            f"{path}: refused: its content is compressed, as torch never writes it, and can unpack to any size. Ask "
            "for a .safetensors file."
        )


class _Copy:
    """Copies the result of torch.load into plain tables, lists and tensors, and counts the memory.

    `size`: bytes of the file.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self.values = self.used = 0

    def of(self, value: Any, name: str = "", depth: int = 0) -> Any:
        self.values += 1
        if depth > DEEPEST or self.values > MOST_VALUES:
            raise UserError(
                f"{self.path}: refused: it holds more than {MOST_VALUES:,} values, or lists nested more than {DEEPEST}"
                " levels deep. Is it the right file?"
            )
        if isinstance(value, torch.Tensor):
            return self._tensor(value, name)
        if isinstance(value, dict):
            for key in value:
                _check_name(self.path, key)
            names = {key: f"{name}.{key}" if name else str(key) for key in value}
            return {key: self.of(entry, names[key], depth + 1) for key, entry in value.items()}
        if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
            entries = [self.of(entry, f"{name}[{number}]", depth + 1) for number, entry in enumerate(value)]
            return entries if isinstance(value, list) else tuple(entries)
        if isinstance(value, int) and abs(value) >= 2**64:
            raise UserError(f"{self.path}: {shorten(printable(name), 200)} is a whole number of more than 64 bits.")
        return value

    def _tensor(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        check_plain(self.path, name, tensor)
        bytes_ = tensor.numel() * tensor.element_size()
        self.used += bytes_
        if bytes_ > tensor.untyped_storage().nbytes() or self.used > MOST_USES * self.size + MIB:
            raise UserError(
                f"{self.path}: refused: {shorten(printable(name), 200)} repeats numbers of the file, which would "
                "take many times its size in memory. Ask for a .safetensors file."
            )
        return tensor.detach().clone()
