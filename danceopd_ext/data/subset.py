"""Describes one `[[datasets.subsets]]` with everything that it inherits, and the sizes of its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from danceopd_ext.data.buckets import BucketRules
from danceopd_ext.data.items import CaptionRules, Item, Size
from danceopd_ext.data.pictures import ItemPicture
from danceopd_ext.errors import UserError
from danceopd_ext.foreign.files import check_file

Sized = dict[Size, "BucketRules | None"]
"""Sizes in pixels, each with the rules that chose it, or None if it was given."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl")


@dataclass(frozen=True)
class Subset:
    """The keys of a subset; `where` names file and table in messages, `dataset` counts the datasets from 1.

    There is one entry of `buckets` for every resolution of the dataset (one, unless it is a list of sizes).
    """

    where: str
    dataset: int
    route: str
    image_dir: Path | None
    metadata_file: Path | None
    source_dir: Path | None
    caption_extension: str
    class_tokens: str | None
    recursive: bool
    repeats: int
    batch_size: int | None
    rules: CaptionRules
    buckets: tuple[BucketRules, ...]

    def items(
        self, text: str, sizes: Sized, where: str, image: Path | None = None, source_images: tuple[Path, ...] = ()
    ) -> list[Item]:
        """Return one item per size. A picture that is its own source image is not used as a result."""
        image = None if image in source_images else image
        return [
            Item(
                text, *size, self.rules, self.repeats, self.batch_size, where,
                None if image is None else ItemPicture(image, rules), source_images,
            )
            for size, rules in sizes.items()
        ]  # fmt: skip

    def bucket_sizes(self, image_size: Size | None, where: str) -> Sized:
        """Return the bucket of an image for every resolution; without an image, the resolutions themselves."""
        if image_size is None:
            return {bucket.resolution: bucket for bucket in self.buckets}
        try:
            found: Sized = {}
            for bucket in self.buckets:
                found.setdefault(bucket.select(image_size), bucket)
            return found
        except ValueError as error:
            raise UserError(
                f"{where}: {error}. Remove the image, or set bucket_no_upscale = false ({self.where})."
            ) from None


def image_size(path: Path) -> Size:
    """Return width and height in pixels from the header of an image file; no pixel is decoded.

    As in sd-scripts, an EXIF rotation is ignored. Raises UserError if the file is not an image.
    """
    from PIL import Image

    check_file(path, "picture")
    try:
        with Image.open(path) as image:
            return image.size
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: this image is too large: {error}. Make it smaller.") from None
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:
        raise UserError(f"{path}: the size of this image cannot be read: {error}. Repair or remove the file.") from None
