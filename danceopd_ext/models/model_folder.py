"""Checks a diffusers folder for what could run code, before a library opens it.

Models are shared between strangers. diffusers and transformers ask before they run code that comes with a model, but
not in every version and not everywhere. So a folder whose files name anything but classes of these two libraries is
refused here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from danceopd_ext.errors import UserError, shorten
from danceopd_ext.foreign.files import MIB, check_file
from danceopd_ext.foreign.json import parse_unlimited, read_object, shown
from danceopd_ext.foreign.text import read_text
from danceopd_ext.models.configuration import MOST_BYTES, check_index

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
#: classes that read their real class from the folder; tokenizers and processors may do so, as auto_map is refused
AUTOMATIC = {"diffusers": ("AutoModel", "AutoPipeline"), "transformers": ("AutoModel", "AutoConfig", "AutoBackbone")}
#: the common beginning of the names of diffusers' VAE classes
NOT_AUTOMATIC = "Autoencoder"
#: bytes of a tokenizer; those of large models have 35 MB
LARGEST_TOKENIZER = 256 * MIB
REMEDY = "It was not opened. Use a model that consists of diffusers and transformers classes only."


def check_folder(folder: Path) -> None:
    """Check the index, the settings and the tokenizers of a model that are in the folder.

    Raises UserError that names the file, and the key in it.
    """
    index = read_object(folder / INDEX, "model index", most=MOST_BYTES)
    if not isinstance(index.get("_class_name"), str):
        raise UserError(
            f"{folder / INDEX}: _class_name is {shown(index.get('_class_name'))}; expected the name of a pipeline of "
            f"diffusers. {REMEDY}"
        )
    parts = list(_components(index, folder / INDEX))
    for place in (folder, *(folder / name for name in parts)):
        _check_stray_code(place)
        for file in sorted(place.glob("*config.json")):
            _check_settings(file)
    for name in parts:
        tokenizer = folder / name / "tokenizer.json"
        if tokenizer.exists() and check_file(tokenizer, "tokenizer").st_size > LARGEST_TOKENIZER:
            raise UserError(f"{tokenizer} has more than {LARGEST_TOKENIZER / MIB:,g} MiB. Is it the right file?")
    check_index(index, folder / INDEX)


def _components(index: Mapping[str, Any], file: Path) -> Iterator[str]:
    """Yield the name of each part in the index. Raises UserError for a class of another library."""
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list) or not any(isinstance(one, str) for one in value):
            continue  # a setting of the pipeline, or a part that this model lacks: [null, null]
        library, cls = value if len(value) == 2 else (None, None)
        known = library in LIBRARIES and isinstance(cls, str) and cls.isidentifier() and not cls.startswith("_")
        plain = known and (cls.startswith(NOT_AUTOMATIC) or not cls.startswith(AUTOMATIC[library]))
        if not (plain and name.isidentifier()):
            raise UserError(f"{file}: {shorten(name)} is {shown(value)}. {REMEDY}")
        yield name


def _check_stray_code(folder: Path) -> None:
    """Raise UserError for a file that some versions of diffusers run when they open the folder."""
    for name in (*LIBRARIES, "None"):  # the module of a part's library, and that of no custom pipeline
        if (folder / f"{name}.py").exists():
            raise UserError(f"{folder / name}.py: the model contains code of its own. {REMEDY}")


def _check_settings(file: Path) -> None:
    """Raise UserError for settings that refer to code, or that a tokenizer cannot have."""
    text = read_text(file, "settings of the model", LARGEST_TOKENIZER)
    settings = parse_unlimited(text, str(file), "Download the model again.")  # model_max_length may have 31 digits
    for key, value in _entries(settings):
        if key == "auto_map" and value:
            raise UserError(f"{file}: auto_map refers to code in the model: {shown(value)}. {REMEDY}")
        if "attn_implementation" in key and "/" in json.dumps(value):
            raise UserError(f"{file}: {key} = {shown(value)} refers to code on the hub. {REMEDY}")
    if isinstance(settings, dict) and "model_max_length" in settings:
        _check_longest(file, settings["model_max_length"])


def _check_longest(file: Path, longest: Any) -> None:
    """Raise UserError for an invalid number of tokens; a huge one means no limit."""
    if longest is not None and not (type(longest) in (int, float) and longest >= 1):
        raise UserError(
            f"{file}: model_max_length is {shown(longest)}; expected a number of 1 or more. Download the model again."
        )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and value of a JSON value, at any depth."""
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict):
            yield from holder.items()
        waiting += [one for one in _inner(holder) if isinstance(one, (dict, list))]


def _inner(holder: Any) -> list[Any]:
    return list(holder.values()) if isinstance(holder, dict) else holder if isinstance(holder, list) else []
