"""Reads the configurations of a model folder as untrusted text, and limits what diffusers builds from them.

diffusers accepts any value: it would build a billion layers one by one, or end in an arbitrary Python error if a list
stands in place of a number. So values are compared with the defaults of the class that takes them, and `built_from`
supervises what is built.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch.nn.modules import module as torch_modules

from danceopd_ext.errors import MissingFile, UserError, shorten
from danceopd_ext.foreign.files import MIB
from danceopd_ext.foreign.json import read_object, shown
from danceopd_ext.models.registry import FAMILIES

#: the parts of every pipeline, besides those that encode prompts
PARTS = ("transformer", "vae", "scheduler")

#: bytes of a configuration; modules of a part of a model (the largest have a few thousand), and numbers in its weights
MOST_BYTES, MOST_MODULES, MOST_NUMBERS = 4 * MIB, 8000, 10**12
#: the largest number in a configuration, and the most layers, blocks or heads
LARGEST, MOST_LAYERS = 10**6, 1000
#: entries of a list in a configuration
LONGEST_LIST = 10_000

REMEDY = "Download the model again."


def read_configuration(folder: Path, part: str, cls: Any, name: str = "config.json") -> dict[str, Any]:
    """Return the configuration of the part of a model folder from which `cls`, a class of diffusers, is made.

    Raises UserError that names the file if it is not a JSON object, or contains a value whose type differs from the
    class's default, a whole number below 0, or a number above LARGEST.
    """
    file = folder / part / name
    config = _read(file, part)
    _check_counts(config, file)
    for key, example in _examples(cls).items():
        if key in config and (wrong := _wrong(config[key], example)):
            raise UserError(f"{file}: {key} = {shown(config[key])}: expected {wrong}. {REMEDY}")
    return config


def library_class(name: str) -> Any:
    """Return a class of diffusers. Raises UserError if the installed version does not have it."""
    try:
        return getattr(diffusers, name)
    except AttributeError as error:
        raise UserError(
            f"diffusers {diffusers.__version__} does not include {name}. Install a newer version (pip install -U "
            "diffusers)."
        ) from error


def check_text_encoder(folder: Path) -> None:
    """Raise UserError if the configuration of a text encoder is not a JSON object, or describes too many layers."""
    file = folder / "config.json"
    _check_counts(_read(file, folder.name), file)


def _read(file: Path, part: str) -> dict[str, Any]:
    try:
        return read_object(file, f"configuration of the {part}", REMEDY, MOST_BYTES)
    except MissingFile as error:
        raise UserError(f"{file} is missing: the copy or download of the model is incomplete. {REMEDY}") from error


def _check_counts(config: Mapping[str, Any], file: Path) -> None:
    """Raise UserError for more than MOST_LAYERS layers, blocks or heads, or a negative number, also if nested."""
    for key, value in config.items():
        counts = any(word in key for word in ("layers", "blocks", "heads"))
        if isinstance(value, dict):
            _check_counts(value, file)
        elif counts and isinstance(value, int | float) and not 0 <= value <= MOST_LAYERS:
            raise UserError(f"{file}: {key} = {value}: expected a number from 0 to {MOST_LAYERS:,}. {REMEDY}")


@contextmanager
def built_from(file: Path) -> Iterator[None]:
    """Turn errors of building from the configuration `file` inside the block into a UserError that names it."""
    try:
        with within_limits(file):
            yield
    except UserError:
        raise
    except Exception as error:  # such values cause any error of Python and torch
        reason = shorten(str(error).strip() or type(error).__name__, 200).rstrip(".")
        raise UserError(f"{file}: the model part that it describes cannot be built ({reason}). {REMEDY}") from error


@contextmanager
def within_limits(file: Path) -> Iterator[None]:
    """Raise UserError as soon as more than MOST_MODULES modules or MOST_NUMBERS numbers in them are made inside.

    `file`: the configuration or folder that describes them.
    """
    modules, numbers = 0, 0

    def count_module(*_: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > MOST_MODULES:
            raise UserError(f"{file}: it describes a model with more than {MOST_MODULES:,} modules. {REMEDY}")

    def count_numbers(_: Any, __: str, parameter: torch.Tensor | None) -> None:
        nonlocal numbers
        numbers += 0 if parameter is None else parameter.numel()
        if numbers > MOST_NUMBERS:
            raise UserError(f"{file}: it describes a model with more than {MOST_NUMBERS:,} parameters. {REMEDY}")

    hooks = [
        torch_modules.register_module_module_registration_hook(count_module),
        torch_modules.register_module_parameter_registration_hook(count_numbers),
        torch_modules.register_module_buffer_registration_hook(count_numbers),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def on_paper(cls: Any, config: Mapping[str, Any], file: Path) -> torch.nn.Module:
    """Return the module of a configuration without memory for its weights. Raises UserError that names `file`."""
    with built_from(file), torch.device("meta"):
        return cls.from_config(dict(config))


def check_index(index: Mapping[str, Any], file: Path) -> None:
    """Raise UserError if a part in a pipeline's index is not named as [library, class], which diffusers expects."""
    text_parts = (part for family in FAMILIES.values() for part in family.text_parts)
    for part in dict.fromkeys((*PARTS, *text_parts)):
        names = index.get(part)
        pair = isinstance(names, list) and len(names) == 2 and all(isinstance(one, str | None) for one in names)
        if names is not None and not pair:
            raise UserError(f"{file}: {part} = {shown(names)}: expected [library, class]. {REMEDY}")


def _examples(cls: Any) -> dict[str, Any]:
    """Return the arguments of a class -> an example of the type that each takes: its default, or by its annotation."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    unclear = (None, (), [])
    return {one.name: _example(str(one.annotation)) if one.default in unclear else one.default for one in parameters}


def _example(annotation: str) -> Any:
    numbers = {"float": 0.0, "int": 0}
    number = next((value for word, value in numbers.items() if re.search(rf"\b{word}\b", annotation)), None)
    return [number] if number is not None and re.search(r"\b(tuple|list)\b", annotation.lower()) else number


def _wrong(value: Any, example: Any) -> str:
    """Return what was expected if a value is not of the example's type, otherwise ""."""
    if value is None:
        return ""
    if isinstance(example, list | tuple):
        return _wrong_list(value, example)
    for kind, words in ((bool, "true or false"), (str, "a text")):
        if isinstance(example, kind):
            return "" if isinstance(value, kind) else words
    if not isinstance(example, int | float):
        return ""
    lowest = 0 if isinstance(example, int) and isinstance(value, int) else -LARGEST
    fine = isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= LARGEST
    return "" if fine else f"a number from {lowest:,} to {LARGEST:,}"


def _wrong_list(value: Any, example: list | tuple) -> str:
    if not isinstance(value, list | tuple):
        return "a list"
    if len(value) > LONGEST_LIST:
        return f"a list of at most {LONGEST_LIST:,} entries"
    found = next((wrong for one in value if example and (wrong := _wrong(one, example[0]))), "")
    return f"a list in which each entry is {found}" if found else ""
