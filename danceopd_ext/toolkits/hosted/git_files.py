"""Reads from git's own files which commit a folder has checked out, and its remotes.

git itself may not be installed, and would run commands from a stranger's .git/config.
"""

from __future__ import annotations

import re
from pathlib import Path

from danceopd_ext.errors import UserError
from danceopd_ext.foreign.text import read_text


def read_commit(folder: Path) -> str | None:
    """Return the full commit hash; None if this is not a git checkout (a downloaded zip) or has another format."""
    repository = _repository(folder)
    head = read_small(repository / "HEAD")
    if not head.startswith("ref:"):
        return _commit(head)
    name = head.removeprefix("ref:").strip()
    shared = _shared(repository)
    for place in (repository, shared):
        if commit := _commit(read_small(place / name)):
            return commit
    packed = re.search(rf"^([0-9a-f]{{40,64}}) {re.escape(name)}$", read_small(shared / "packed-refs"), re.MULTILINE)
    return packed[1] if packed else None


def read_remotes(folder: Path) -> list[str]:
    """Return `owner/name` of each remote, without the host and a password before it; none without git's files."""
    text = read_small(_shared(_repository(folder)) / "config")
    urls = re.findall(r"^\s*url\s*=\s*(.+?)\s*$", text, re.MULTILINE)
    parts = [[part for part in re.split(r"[/\\:]", url) if part] for url in urls]
    return ["/".join(one[-2:]).removesuffix(".git") for one in parts if one]


def read_small(path: Path) -> str:
    """Return the text of a regular file, stripped; empty if it cannot be read."""
    try:
        return read_text(path, "file of a toolkit").strip()
    except UserError:
        return ""


def _shared(repository: Path) -> Path:
    """Return the folder of branches and settings: for a worktree, that of the clone."""
    return repository / (read_small(repository / "commondir") or ".")


def _repository(folder: Path) -> Path:
    """Return the folder of git's files: .git, or the one that a .git file (worktree, submodule) names."""
    pointer = read_small(folder / ".git")
    return folder / pointer.removeprefix("gitdir:").strip() if pointer.startswith("gitdir:") else folder / ".git"


def _commit(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9a-f]{40,64}", text) else None
