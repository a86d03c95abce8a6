"""Describes one of the models that a toolkit trains, as far as the shared code needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from danceopd_ext.config.hosted_preset import HostedPreset
from danceopd_ext.config.model_types import explain_model_type
from danceopd_ext.config.toolkits import TOOLKITS, Toolkit
from danceopd_ext.errors import UserError
from danceopd_ext.models.layer_names import LayerNames
from danceopd_ext.toolkits.hosted.adapter import Adapter
from danceopd_ext.toolkits.hosted.argument_rules import Rule
from danceopd_ext.toolkits.hosted.seams import Call
from danceopd_ext.toolkits.hosted.weights_header import Kind

MODEL = "pretrained_model_name_or_path"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One of a toolkit's trainers, and what its model needs.

    model_type: the preset's word. title: for messages; by default that of `names`. script, trainer, parser: module and
    class in the checkout, and the script's function that makes its parser. adapter: makes a run's adapter from the
    toolkit's trainer and arguments, and from what else its toolkit passes. network_module: makes the student. names:
    the layers' names in LoRA files; None: only the toolkit's own names are known.

    The arguments: fixed: those that this model always runs with. required: those that must be given. files: those that
    name files. folders: those of `files` that may be folders or files of other formats. refused: those that the trainer
    accepts and ignores. drops_cached: whether whole captions can be dropped although their encodings are cached.

    The model: latent_channels, latent_scale: of its VAE (pixels per latent). size_multiple: of a picture's sides, in
    pixels. kinds: what its file can be. mistaken: files that people confuse with it. inside: a part that its file can
    contain -> the prefix of the part's names. blocks: the names of its lists of blocks. mend: corrects the loaded
    transformer if the toolkit is wrong, and returns a note. calls: the toolkit's functions that the adapter calls.

    needs_conversion: a program that does not load the saved LoRA, and the dialect that it loads.
    """

    model_type: str
    script: str
    trainer: str
    network_module: str
    adapter: Callable[..., Adapter]
    title: str = ""
    parser: str = "setup_parser"
    names: LayerNames | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = (MODEL,)
    files: tuple[str, ...] = (MODEL,)
    folders: tuple[str, ...] = ()
    refused: tuple[Rule, ...] = ()
    drops_cached: bool = False
    latent_channels: int = 16
    latent_scale: int = 8
    size_multiple: int = 16
    kinds: tuple[Kind, ...] = ()
    mistaken: tuple[Kind, ...] = ()
    inside: Mapping[str, str] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
    mend: Callable[[torch.nn.Module], str | None] = lambda transformer: None
    calls: tuple[Call, ...] = ()
    needs_conversion: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if not self.title and self.names:
            object.__setattr__(self, "title", self.names.title)


def with_files(*names: str) -> dict[str, tuple[str, ...]]:
    """Return the fields of a model that needs these files and its own."""
    return {"required": (MODEL, *names), "files": (MODEL, *names)}


class Architectures(Mapping[str, Architecture]):
    """The architectures in a toolkit's row; each is imported when it is needed."""

    def __init__(self, toolkit: Toolkit):
        self.toolkit = toolkit

    def __getitem__(self, model_type: str) -> Architecture:
        found = self.toolkit.part(self.toolkit.models[model_type])
        if found.model_type != model_type:
            raise ValueError(f"{found.model_type} is registered as {model_type} in the row of {self.toolkit.name}")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.toolkit.models)

    def __contains__(self, model_type: object) -> bool:
        return model_type in self.toolkit.models

    def __len__(self) -> int:
        return len(self.toolkit.models)


def find_architecture(preset: HostedPreset) -> Architecture:
    """Return the architecture of the preset's model_type. Raises UserError with those that the toolkit has."""
    toolkit = TOOLKITS[preset.toolkit]
    known = ", ".join(toolkit.models)
    if preset.model_type is None:
        raise UserError(f'{preset.path}: model_type is missing. With toolkit = "{toolkit.name}", write one of {known}.')
    if preset.model_type not in toolkit.models:
        hint = explain_model_type(preset.model_type, toolkit.name)
        raise UserError(f'{preset.path}: model_type = "{preset.model_type}" is not one of {known}.{hint}')
    return Architectures(toolkit)[preset.model_type]
