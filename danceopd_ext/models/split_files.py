"""Finds the parts of a model that the user has as files, and reads their tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from danceopd_ext.errors import MissingFile, UserError
from danceopd_ext.foreign.files import check_file
from danceopd_ext.foreign.tensors import read_header, read_tensors
from danceopd_ext.models.part_files import PartFile

if TYPE_CHECKING:
    from danceopd_ext.models.family import Family

#: endings of files of tensors that run no code; kohya's guides call FLUX.1's VAE ae.sft
SAFE = (".safetensors", ".sft")
#: the name of the first of several files that hold one part
FIRST = re.compile(r"(.*)-00001-of-(\d{5})(\.safetensors)")


@dataclass(frozen=True)
class FoundPart:
    """Where a part's weights are, if not in the folder with the other components.

    files: one, or the pieces of one. key: what the user calls it. prefix: what its tensors' names begin with.
    included: whether this is the file of the transformer, which has more parts.
    """

    spec: PartFile
    files: tuple[Path, ...]
    key: str
    prefix: str = ""
    included: bool = False

    @property
    def path(self) -> Path:
        return self.files[0]

    def header(self) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
        """Return (name -> sizes, name -> number format) of its tensors, without the prefix. Raises UserError."""
        shapes: dict[str, tuple[int, ...]] = {}
        kinds: dict[str, str] = {}
        for header in (read_header(file, self.spec.title) for file in self.files):
            names = {name: name.removeprefix(self.prefix) for name in header.shapes if name.startswith(self.prefix)}
            shapes |= {own: header.shapes[name] for name, own in names.items()}
            kinds |= {own: header.kinds[name] for name, own in names.items() if name in header.kinds}
        return shapes, kinds

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return its tensors by name, without the prefix, in the files' memory maps. Raises UserError."""
        found: dict[str, torch.Tensor] = {}
        for file in self.files:
            found |= read_tensors(file, self.spec.title, lambda name: name.startswith(self.prefix))[0]
        return {name.removeprefix(self.prefix): tensor for name, tensor in found.items()}


def find_parts(family: Family, given: Mapping[str, str], checkpoint: Path | None) -> tuple[FoundPart, ...]:
    """Return the parts that are given as files (preset key -> path), or that the checkpoint includes.

    Raises UserError for a key that the family does not have, two keys for one part, and a file that cannot be read.
    """
    parts: dict[str, FoundPart] = {}
    for key, place in given.items():
        spec = _spec(family, key, place)
        if spec.component in parts:
            raise UserError(
                f"{parts[spec.component].key} and {key} both name the {spec.title} of {family.title}: remove one."
            )
        parts[spec.component] = _given(spec, key, Path(place))
    if checkpoint is not None:
        names = read_header(checkpoint, "checkpoint").shapes
        for spec in family.part_files:
            if spec.component not in parts and (prefix := _prefix(spec, names)):
                parts[spec.component] = FoundPart(spec, (checkpoint,), "", prefix, included=True)
    return tuple(parts.values())


def _spec(family: Family, key: str, place: str) -> PartFile:
    spec = next((spec for spec in family.part_files if key in spec.keys), None)
    if spec is None:
        known = ", ".join(f"{spec.key} ({spec.title})" for spec in family.part_files)
        raise UserError(f'{key} = "{place}": {family.title} has no such part. It takes {known}.')
    return spec


def _given(spec: PartFile, key: str, path: Path) -> FoundPart:
    """Return a part that the user names, with all pieces of its file. Raises UserError."""
    if path.suffix.lower() not in SAFE:
        what = f"a {path.suffix} file" if path.suffix else "a file without an ending"
        raise UserError(
            f"{path} ({key}): the {spec.title} must be a .safetensors file, not {what}. {where_comfyui_keeps(spec)}"
        )
    pieces = [path]
    if several := FIRST.fullmatch(path.name):
        name, count, end = several.groups()
        pieces = [path.with_name(f"{name}-{number:05d}-of-{count}{end}") for number in range(1, int(count) + 1)]
    for piece in pieces:
        try:
            check_file(piece, f"{spec.title} ({key})")
        except MissingFile as error:
            raise UserError(f"{error} {where_comfyui_keeps(spec)}") from None
    names = [name for piece in pieces for name in read_header(piece, spec.title).shapes]
    return FoundPart(spec, tuple(pieces), key, _prefix(spec, names))


def _prefix(spec: PartFile, names: Iterable[str]) -> str:
    """Return what the part's tensors begin with among these names, "" if no name has one of its prefixes."""
    names = list(names)
    return next((prefix for prefix in spec.inside if any(name.startswith(prefix) for name in names)), "")


def where_comfyui_keeps(spec: PartFile) -> str:
    """Return the sentence that says where a creator finds the file."""
    return f"ComfyUI keeps it as {' or '.join(spec.comfyui)}."


def keys_for(specs: Collection[PartFile]) -> str:
    """Return the keys that give these parts as files, with the places in ComfyUI's folder."""
    return ", ".join(f"{spec.key} (in ComfyUI {spec.comfyui[0]})" for spec in specs)


def give_files(family: Family, parts: Iterable[FoundPart]) -> str:
    """Return the sentence that names the parts that are not given as files, and where ComfyUI keeps them."""
    given = [part.spec for part in parts]
    lacking = [spec for spec in family.part_files if spec not in given]
    if lacking:
        return f" If you have the files already, name them: {keys_for(lacking)}."
    small = " Only its small files are needed, once: configurations, tokenizers and the scheduler."
    return small if given else ""
