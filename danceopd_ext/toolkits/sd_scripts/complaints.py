"""The toolkit's own complaints about what it was given, as messages without a traceback."""

from __future__ import annotations

import traceback
from pathlib import Path

from danceopd_ext.errors import UserError

#: how the toolkit says that it was asked for something that cannot be
KINDS = (AssertionError, ValueError)


def complaint(error: Exception, checkout: Path, preset: Path, dataset_config: str | None) -> UserError | None:
    """What the user can act on; None where the error is none of the input's."""
    text = _english(str(error))
    library = type(error).__module__.partition(".")[0]
    if library == "voluptuous":
        return UserError(f"{dataset_config}: {text}.")
    if library == "toml":
        return UserError(f"{dataset_config}: {text}. The toolkit's reader takes no lists of mixed types, for example.")
    frames = traceback.extract_tb(error.__traceback__)
    where = Path(frames[-1].filename) if frames else Path()
    if text and type(error) in KINDS and checkout in where.parents:
        return UserError(f"{preset}: sd-scripts refuses it: {text}")
    return None


def _english(text: str) -> str:
    """The toolkit says most things twice, in English and in Japanese."""
    first, _, second = text.partition(" / ")
    return first.strip() if second and not second.isascii() else text.strip()
