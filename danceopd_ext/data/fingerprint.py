"""Computes a short name for the content of a model's files: the same files give the same name in every folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from danceopd_ext.errors import UserError

#: files up to this size are read whole, larger ones in so many pieces besides the first and the last
_WHOLE_BYTES = 16 * 1024**2
_PIECE_BYTES, _PIECES = 64 * 1024, 256


def fingerprint(paths: Iterable[Path]) -> str:
    """Return 16 hex digits for files, or for folders with all their files, in the order given.

    It depends on names (below each folder), sizes and content, but not on where the folder is: files up to
    16 MiB are read whole, larger ones in their first and last 64 KiB and 256 pieces of 64 KiB evenly between, which is
    quick for weights of many gigabytes. A change between two pieces is missed: less than 1/257 of a file
    above 16 MiB (47 MiB of 12 GiB, which can be one matrix of a transformer, but no block of it). Hidden files and
    folders do not count. Raises UserError if a path does not exist or a folder is empty.
    """
    digest = hashlib.sha256()
    for place, path in enumerate(map(Path, paths)):
        files = [(path.name, path)] if path.is_file() else _below(path)
        if not files:
            raise UserError(f"{path}: this folder has no text encoder files.")
        for name, file in files:
            size = file.stat().st_size
            digest.update(f"{place}/{name}/{size}\n".encode("utf-8", "surrogateescape"))
            for piece in _read(file, size):
                digest.update(piece)
    return digest.hexdigest()[:16]


def _read(file: Path, size: int) -> Iterator[bytes]:
    with open(file, "rb") as handle:
        if size <= _WHOLE_BYTES:
            yield handle.read()
            return
        for index in range(_PIECES + 2):
            handle.seek((size - _PIECE_BYTES) * index // (_PIECES + 1))
            yield handle.read(_PIECE_BYTES)


def _below(folder: Path) -> list[tuple[str, Path]]:
    names = ((file.relative_to(folder), file) for file in folder.rglob("*") if file.is_file())
    return sorted((name.as_posix(), file) for name, file in names if not any(p.startswith(".") for p in name.parts))
