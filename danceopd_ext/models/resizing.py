"""Resizes source images before they are encoded, by each pipeline's own rule.

Sizes are (width, height) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from danceopd_ext.errors import UserError

Size = tuple[int, int]

#: the area of a source image for the VAE, and for a text encoder that sees it at low resolution
SOURCE_AREA = 1024 * 1024
GLANCE_AREA = 384 * 384


def nearest_ratio(size: Size, preferred: Sequence[Size]) -> Size:
    """Return the preferred size whose width : height is nearest; on a tie, the narrower."""
    ratio = size[0] / size[1]
    _, width, height = min((abs(ratio - width / height), width, height) for width, height in preferred)
    return width, height


def of_area(size: Size, area: int, multiple: int = 32) -> Size:
    """Return the same proportions at about this area, each side rounded to a multiple. Raises UserError if one is 0."""
    width = math.sqrt(area * (size[0] / size[1]))
    height = width / (size[0] / size[1])
    return _some(size, (round(width / multiple) * multiple, round(height / multiple) * multiple), multiple)


def at_most(size: Size, area: int) -> Size:
    """Return the same proportions at this area if the size exceeds it, otherwise the size; sides rounded down."""
    return size if size[0] * size[1] <= area else scaled_to(size, area)


def scaled_to(size: Size, area: int) -> Size:
    """Return the same proportions at this area; sides rounded down."""
    scale = math.sqrt(area / (size[0] * size[1]))
    return int(size[0] * scale), int(size[1] * scale)


def floor_to(size: Size, multiple: int) -> Size:
    """Return each side rounded down to a multiple. Raises UserError if one is 0."""
    return _some(size, (size[0] // multiple * multiple, size[1] // multiple * multiple), multiple)


def _some(size: Size, fitted: Size, multiple: int) -> Size:
    """Return the fitted size. Raises UserError if a side is 0."""
    if min(fitted) < 1:
        raise UserError(
            f"A picture of {size[0]} x {size[1]} is too small or too elongated: each side must have {multiple} pixels "
            "or more. Use a larger one, or crop the longer side."
        )
    return fitted


def shrunk(image: Image.Image, area: int) -> Image.Image:
    """Return the image, reduced to at most this area."""
    size = at_most(image.size, area)
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def middle(image: Image.Image, size: Size) -> Image.Image:
    """Return the middle of the image, cropped to this size."""
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    return image.crop((left, top, left + size[0], top + size[1]))
