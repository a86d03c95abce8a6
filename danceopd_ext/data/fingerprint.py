"""A short name for a model's text encoders: the same files give the same name wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ..errors import UserError

_SAMPLE_BYTES = 64 * 1024


def fingerprint(paths: Iterable[Path]) -> str:
    """Return 16 hex digits for files, or for folders with all their files, in the order given.

    It is made of names (below each folder), sizes, and the first and last 64 KiB of every file: quick for weights of
    many gigabytes, and independent of where the folder lies. Hidden files and folders do not count. Raises UserError
    when a path does not exist or a folder is empty.
    """
    digest = hashlib.sha256()
    for place, path in enumerate(map(Path, paths)):
        files = [(path.name, path)] if path.is_file() else _below(path)
        if not files:
            raise UserError(f"{path}: there are no files of a text encoder here.")
        for name, file in files:
            size = file.stat().st_size
            digest.update(f"{place}/{name}/{size}\n".encode("utf-8", "surrogateescape"))
            with open(file, "rb") as handle:
                digest.update(handle.read(_SAMPLE_BYTES))
                handle.seek(max(0, size - _SAMPLE_BYTES))
                digest.update(handle.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _below(folder: Path) -> list[tuple[str, Path]]:
    names = ((file.relative_to(folder), file) for file in folder.rglob("*") if file.is_file())
    return sorted((name.as_posix(), file) for name, file in names if not any(p.startswith(".") for p in name.parts))
