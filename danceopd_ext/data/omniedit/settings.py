"""Records what a folder of edits was made from, and refuses to add edits from other data or options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.data.omniedit.edits import ROUTES
from danceopd_ext.errors import UserError
from danceopd_ext.foreign.json import read_object

#: records what the folder OUT was made from, so that runs do not mix
SETTINGS = "settings.json"


def check_settings(out: Path, settings: Mapping[str, object]) -> None:
    """Raise UserError if `out` contains edits from other data or options, whose numbers belong to other rows.

    More of the same (a larger --limit) leaves the numbers as they are.
    """
    remedy = f"Use another --out, or remove {', '.join(ROUTES)} and {SETTINGS} there."
    path = out / SETTINGS
    if not path.is_file():
        taken = [out / route for route in ROUTES if (out / route).exists()]
        if taken:
            raise UserError(
                f"{taken[0]} already exists, and {path}, which says what it was made from, is missing. {remedy}"
            )
        return
    try:
        before = read_object(path, "note on the routes")
    except UserError as error:
        raise UserError(f"{error} {remedy}") from None
    old, new = before.get("--limit"), settings["--limit"]
    if isinstance(old, int) and (new is None or new >= old):
        before["--limit"] = new
    for key, value in settings.items():
        if before.get(key) != value:
            other = f"with {key} {before.get(key) or 'none'}, not {value or 'none'}"
            raise UserError(f"{out} holds edits made {'from other data' if key == 'data' else other}. {remedy}")


def digest_of(data: str, hub: Sequence[tuple[str, str]]) -> str:
    """Return what identifies data in any folder: the files that rows are read from. Raises UserError."""
    path = Path(data)
    if hub:
        return hashlib.sha256(json.dumps(hub).encode()).hexdigest()[:16]
    try:
        if path.is_dir() or path.suffix == ".parquet":
            return fingerprint(sorted(path.rglob("*.parquet")) if path.is_dir() else [path])
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]  # rows of equal length may have been reordered
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
