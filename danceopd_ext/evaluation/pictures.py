"""Reads the pictures of a result folder."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from danceopd_ext.errors import UserError


def is_picture(path: Path) -> bool:
    """Return whether the file begins like a picture."""
    try:
        with Image.open(path):
            return True
    except (UnidentifiedImageError, OSError, SyntaxError):
        return False


def read_picture(path: Path) -> Image.Image:
    """Return the picture as RGB. Raises UserError if it is incomplete."""
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(
            f"{path}: the image file is incomplete. Delete it, and the same command draws it again."
        ) from error
