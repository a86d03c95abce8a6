"""Reads and writes cache files that reveal damage: safetensors with a digest of the tensors in the metadata.

safetensors itself only notices that a file is cut off. The run would train on an encoded prompt with a flipped byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from danceopd_ext.errors import MissingFile, UserError
from danceopd_ext.finite import first_broken
from danceopd_ext.foreign.tensors import read_tensors

#: the metadata entry that holds the digest
DIGEST = "danceopd_sha256"
#: why an entry cannot be used, as the end of "it is ..."
DAMAGED, UNDIGESTED, NOT_FINITE = "damaged", "without a digest", "with NaN or infinite numbers"


class UnusableEntry(Exception):
    """A file cannot be used; `why` is DAMAGED, UNDIGESTED or NOT_FINITE."""

    def __init__(self, why: str):
        super().__init__(why)
        self.why = why


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of tensors on the CPU, in any order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode("utf-8", "surrogatepass"))
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def write_entry(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, metadata and digest to `path`, which the caller renames when it is complete."""
    save_file(dict(tensors), path, metadata={**(metadata or {}), DIGEST: digest_of(tensors)})


def read_entry(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return an entry's tensors, as copies that do not keep the file open, and its metadata.

    Raises FileNotFoundError if it is missing, and UnusableEntry if it is damaged, has no digest (an earlier version
    wrote it) or holds NaN or infinite numbers.
    """
    tensors, metadata = _read(path)
    if DIGEST not in metadata:
        raise UnusableEntry(UNDIGESTED)
    if metadata[DIGEST] != digest_of(tensors):
        raise UnusableEntry(DAMAGED)
    if first_broken(tensors):
        raise UnusableEntry(NOT_FINITE)
    return tensors, metadata


def add_digest(path: Path) -> str | None:
    """Add the digest to a file that another program has just written.

    Returns the name of a tensor with NaN or infinite numbers, if any; the file is then left unchanged.
    """
    tensors, metadata = _read(path)
    if broken := first_broken(tensors):
        return broken
    write_entry(path, tensors, metadata)
    return None


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        tensors, metadata = read_tensors(path, "entry of a cache")
    except MissingFile as error:
        raise FileNotFoundError(path) from error
    except UserError as error:
        raise UnusableEntry(DAMAGED) from error
    return {name: tensor.clone() for name, tensor in tensors.items()}, metadata
