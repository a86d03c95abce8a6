"""Which commit a folder has checked out, read from git's own files: git itself may not be installed."""

from __future__ import annotations

import re
from pathlib import Path


def read_commit(folder: Path) -> str | None:
    """The commit's full name, or None: not a git checkout (a downloaded zip), or one that is stored otherwise."""
    repository = _repository(folder)
    head = _read(repository / "HEAD")
    if not head.startswith("ref:"):
        return _commit(head)
    name = head.removeprefix("ref:").strip()
    shared = repository / (_read(repository / "commondir") or ".")  # a worktree has its branches where the clone is
    for place in (repository, shared):
        if commit := _commit(_read(place / name)):
            return commit
    packed = re.search(rf"^([0-9a-f]{{40,64}}) {re.escape(name)}$", _read(shared / "packed-refs"), re.MULTILINE)
    return packed[1] if packed else None


def _repository(folder: Path) -> Path:
    """The folder of git's files: .git, or where a .git file (worktree, submodule) points."""
    pointer = _read(folder / ".git")
    return folder / pointer.removeprefix("gitdir:").strip() if pointer.startswith("gitdir:") else folder / ".git"


def _read(path: Path) -> str:
    """The file's text without blanks around it; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _commit(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9a-f]{40,64}", text) else None
