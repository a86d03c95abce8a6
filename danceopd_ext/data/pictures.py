"""Loads the pictures that prompts describe, for methods that learn from clean endpoints.

A picture is resized and cut to the size of its item as sd-scripts does (library/train_util.py,
trim_and_resize_if_required, without random_crop): shrunk by area averaging, enlarged by Lanczos, the middle cut out.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from danceopd_ext.data.buckets import BucketRules, covering
from danceopd_ext.data.resolutions import Size
from danceopd_ext.errors import UserError
from danceopd_ext.foreign.files import MIB, read_bytes
from danceopd_ext.rgb import as_rgb, is_deep_grey

if TYPE_CHECKING:
    from PIL.Image import Image

#: bytes of a picture file
MOST = 512 * MIB


@dataclass(frozen=True)
class ItemPicture:
    """A picture file. `buckets`: the rules of its dataset for resizing it; None resizes it to cover the item's size."""

    path: Path
    buckets: BucketRules | None = None

    def resized(self, picture: Size, size: Size) -> Size:
        """Return the size to which a picture is resized before its middle, `size`, is cut out."""
        return self.buckets.resized(picture, size) if self.buckets else covering(picture, size)


class PictureFile(NamedTuple):
    """The digest of a picture file's bytes, and its (width, height) in pixels."""

    digest: str
    size: Size


def inspect_picture(path: Path) -> PictureFile:
    """Read a picture file's digest and size. Raises UserError if it is missing or not a picture."""
    data = read_picture(path)
    size, deep = open_picture(data, lambda image: (image.size, is_deep_grey(image)), _told(path))
    # caches of earlier versions contain 16-bit grey as white
    return PictureFile(hashlib.sha256(data + b"16 bits" * deep).hexdigest()[:32], size)


def load_cut(picture: ItemPicture, size: Size) -> np.ndarray:
    """Return the picture at the item's size, uint8 [height, width, 3]; transparency is dropped, as in sd-scripts.

    Raises UserError as load_picture does.
    """
    image = load_picture(picture.path)
    return fitted(image, picture.resized(image.size, size), size)


def load_picture(path: Path) -> Image:
    """Return the whole picture as RGB; transparency and an EXIF rotation are ignored.

    Raises UserError if the file is missing or damaged, or its pixels are 32-bit numbers.
    """
    return open_picture(read_picture(path), lambda image: as_rgb(image, str(path)), _told(path))


def decoded(data: bytes, wrong: str) -> Image:
    """Return the whole picture in these bytes as RGB. Raises UserError, which begins with `wrong`."""
    return open_picture(data, lambda image: as_rgb(image, wrong), wrong)


def fitted(image: Image, resized: Size, size: Size) -> np.ndarray:
    """Resize a picture to `resized`, and cut out the middle `size` of that: uint8 [height, width, 3]."""
    from PIL.Image import Resampling

    if image.size == resized:
        pixels = np.asarray(image)
    elif image.width >= resized[0] and image.height >= resized[1]:
        pixels = shrunk(shrunk(np.asarray(image), resized[0], axis=1), resized[1], axis=0)
        pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    else:
        pixels = np.asarray(image.resize(resized, Resampling.LANCZOS))
    left, top = (resized[0] - size[0]) // 2, (resized[1] - size[1]) // 2
    return pixels[top : top + size[1], left : left + size[0]]


def shrunk(pixels: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Return the averages over `length` equal stretches of an axis, which may cut through pixels.

    Pillow's box filter takes whole pixels only; OpenCV's area averaging, which sd-scripts uses, cuts them like this.
    """
    pixels = np.moveaxis(pixels, axis, 0)
    sums = np.cumsum(pixels, axis=0, dtype=np.int64 if pixels.dtype == np.uint8 else np.float64)
    sums = np.concatenate([np.zeros_like(sums[:1]), sums])
    edges = np.arange(length + 1) * (len(pixels) / length)
    whole = np.minimum(edges.astype(int), len(pixels) - 1)
    part = (edges - whole).reshape(-1, *[1] * (pixels.ndim - 1))
    below = sums[whole] + part * pixels[whole]
    return np.moveaxis(np.diff(below, axis=0) * (length / len(pixels)), 0, axis)


def read_picture(path: Path) -> bytes:
    """Return a picture file's bytes. Raises UserError if it is missing, not a regular file or larger than MOST."""
    return read_bytes(path, "picture", MOST)


def _told(path: Path) -> str:
    return f"{path}: the picture cannot be read"


def open_picture(data: bytes, use: Callable[[Image], object], wrong: str):
    """Return what `use` makes of the opened picture. Raises UserError, which begins with `wrong`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            return use(image)
    except Image.DecompressionBombError as error:
        raise UserError(f"{wrong} ({error}). Make it smaller.") from None
    # Pillow's decoders raise these for damaged files; RuntimeError is AVIF's
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:
        reason = "unknown image format" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{wrong} ({reason}). Repair or remove it.") from None
