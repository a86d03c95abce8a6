"""Pictures of a result folder, as they are read again."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from danceopd_ext.errors import UserError


def is_picture(path: Path) -> bool:
    """Whether the file begins as a picture does."""
    try:
        with Image.open(path):
            return True
    except (UnidentifiedImageError, OSError, SyntaxError):
        return False


def read_picture(path: Path) -> Image.Image:
    """The picture as RGB. Raises UserError for one that is cut off."""
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(
            f"{path}: the image file is incomplete. Delete it, and the same command draws it again."
        ) from error
