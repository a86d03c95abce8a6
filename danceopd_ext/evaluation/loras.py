"""Reads the LoRAs of a comparison from the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from danceopd_ext.errors import UserError
from danceopd_ext.lora.algebra import combine
from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Lora
from danceopd_ext.models.layout import Layout
from danceopd_ext.ranges import STRENGTH

#: the column without a LoRA
BASE = "base"
#: the folder of encoded prompts, next to those of the models
CACHE = "cache"
FORM = "write NAME=FILE.safetensors, or NAME=FILE@STRENGTH,FILE@STRENGTH"

#: ((file, strength), ...), which are added to one LoRA
Parts = tuple[tuple[str, float], ...]


def parse_loras(texts: Sequence[str]) -> dict[str, Parts]:
    """`NAME=FILE[@strength][,FILE[@strength]...]`, each: return name -> its files. Raises UserError."""
    found: dict[str, Parts] = {}
    for text in texts:
        name, _, files = text.partition("=")
        _check_name(name, found, text)
        found[name] = tuple(_part(piece, text) for piece in _pieces(files))
    return found


def _check_name(name: str, taken: Mapping[str, Parts], text: str) -> None:
    """Raise UserError for a name that cannot become a folder, or that differs from another only in case."""
    if not name.strip() or name != name.strip() or not name.isprintable() or any(m in name for m in '/\\:*?"<>|.'):
        raise UserError(f"--lora {text}: {FORM}. NAME becomes a folder and must be a plain word.")
    if name.casefold() in (BASE, CACHE):
        raise UserError(f'--lora {text}: the folder "{name.casefold()}" has another use. Choose another NAME.')
    same = next((other for other in taken if other.casefold() == name.casefold()), None)
    if same:
        raise UserError(f'--lora {text}: the name "{same}" is already used. Give each --lora a different NAME.')


def _pieces(files: str) -> Iterator[str]:
    """Split at commas, but not at those in the name of an existing file."""
    words = files.split(",")
    while words:
        counts = range(len(words), 1, -1)
        count = next((n for n in counts if os.path.exists(_place(",".join(words[:n])))), 1)
        yield ",".join(words[:count])
        words = words[count:]


def _place(piece: str) -> str:
    """Return a piece without the strength at its end; text after an @ in a file's name is not a strength."""
    place, mark, strength = piece.rpartition("@")
    return place if mark and _number(strength) is not None else piece


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _part(piece: str, text: str) -> tuple[str, float]:
    place = piece if os.path.exists(piece) else _place(piece)
    if not place:
        raise UserError(f"--lora {text}: the file is missing: {FORM}.")
    strength = 1.0 if place == piece else float(piece[len(place) + 1 :])
    if wrong := STRENGTH.wrong(strength):
        raise UserError(f"--lora {text}: the strength {wrong}, such as {place}@0.5.")
    return place, strength


def read_loras(loras: Mapping[str, Parts], layout: Layout, **ignored: bool) -> dict[str, Lora]:
    """Return the files' LoRAs, added up for each name; `ignored`: see `read_lora`.

    Raises UserError naming the --lora.
    """
    found = {}
    for name, parts in loras.items():
        try:
            read = [(read_lora(place, layout, **ignored), s) for place, s in parts]
        except UserError as error:
            raise UserError(f"--lora {name}: {error}") from error
        found[name] = combine(read)
    return found
