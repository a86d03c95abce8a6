"""Converts pictures of any bit depth to RGB with 8 bits per channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from danceopd_ext.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


def as_rgb(image: Image, what: str) -> Image:
    """Return the picture as RGB; grey of 16 bits becomes one of 8 in proportion (1/257, rounded).

    Pillow itself clips such grey at 255, so nearly all of it is white. Raises UserError, which begins with `what`, for
    pixels that are 32-bit numbers: the file does not say which value is white.
    """
    if is_deep_grey(image):
        from PIL.Image import fromarray

        image = fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode in ("F", "I"):
        raise UserError(
            f"{what}: its pixels are 32-bit numbers (mode {image.mode}), and the file does not say which value is "
            "white. "
            "Save it with 8 or 16 bits per channel."
        )
    return image.convert("RGB")


def is_deep_grey(image: Image) -> bool:
    """Return whether the pixels are 16-bit grey. Pillow opens those of some file types as 32-bit numbers."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
