"""Recognizes a file of weights by the names and shapes in its header, without loading it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from danceopd_ext.errors import UserError, printable, shorten
from danceopd_ext.foreign.tensors import read_header as read_own_header

#: name of a tensor -> its shape
Header = Mapping[str, tuple[int, ...]]

#: suffixes of files whose header is read; the toolkit opens the others
SUFFIXES = (".safetensors", ".sft")
#: parts of names that only a LoRA has
LORA = (".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".lora.down.", ".lokr_", ".hada_")


@dataclass(frozen=True)
class Kind:
    """A kind of model. title: for messages.

    marks: parts of names, all of which such a file has. never: parts that it does not have. not_wide: (end of a name,
    size of its last axis) that it does not have, which separates two models with the same names. sign: a pattern that
    some name also matches.
    """

    title: str
    marks: tuple[str, ...]
    never: tuple[str, ...] = ()
    not_wide: tuple[str, int] | None = None
    sign: str = ""

    def fits(self, header: Header) -> bool:
        """Return whether the file can be of this kind."""
        if not all(any(mark in name for name in header) for mark in self.marks):
            return False
        if not any(re.search(self.sign, name) for name in header):
            return False
        if any(part in name for part in self.never for name in header):
            return False
        end, width = self.not_wide or ("", 0)
        return not (width and any(name.endswith(end) and shape[-1:] == (width,) for name, shape in header.items()))


def read_header(path: Path, others: bool = False) -> Header | None:
    """Return names and shapes. Raises UserError for a damaged file.

    others: the toolkit also opens folders and files of other formats here; the result for these is None.
    """
    if os.path.isdir(path):
        if others:
            return None
        raise UserError(f"{path} is a folder: name the .safetensors file.")
    if path.suffix.lower() in SUFFIXES:
        return read_own_header(path).shapes
    try:
        return read_own_header(path).shapes
    except UserError as problem:
        if others and (os.path.isfile(path) or not os.path.exists(path)):  # Path's raise for a name too long
            return None
        raise UserError(f"{path} is not a .safetensors file. The toolkit reads only this format here.") from problem


def check_kind(
    where: str, path: Path, wanted: Sequence[Kind], known: Iterable[Kind], others: bool = False
) -> Header | None:
    """Check that a file is one of the kinds `wanted`, and return its header if it has one.

    where: how the user named it. others: see `read_header`. Raises UserError that says what the file is instead, if it
    is one of `known`.
    """
    try:
        header = read_header(path, others)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if header is None or any(kind.fits(header) for kind in wanted):
        return header
    titles = " or ".join(dict.fromkeys(kind.title for kind in wanted))
    found = "a LoRA" if is_lora(header) else next((kind.title for kind in known if kind.fits(header)), None)
    first = f' (its first tensor is "{shorten(printable(next(iter(header))))}")' if header else " (it is empty)"
    instead = f"it looks like {found}" if found else f"it looks like something else{first}"
    raise UserError(f"{where}: this is not {titles}; {instead}. Name a file that contains {titles}.")


def is_lora(header: Header) -> bool:
    """Return whether the names are those of a LoRA."""
    return any(part in name for part in LORA for name in header)


def linear_shapes(header: Header, prefixes: Sequence[str] = ()) -> dict[str, tuple[int, int]]:
    """Return the matrices of a model's file by layer: (outputs, inputs). A prefix of the names is removed."""
    prefix = next((one for one in prefixes if any(name.startswith(one) for name in header)), "")
    ending = ".weight"
    return {
        name[len(prefix) : -len(ending)]: (shape[0], shape[1])
        for name, shape in header.items()
        if name.startswith(prefix) and name.endswith(ending) and len(shape) == 2
    }


def count_blocks(layers: Iterable[str], name: str) -> int:
    """Return how many blocks the list of this name has."""
    numbers = (layer.removeprefix(f"{name}.").partition(".")[0] for layer in layers if layer.startswith(f"{name}."))
    return len({number for number in numbers if number.isdecimal()})
