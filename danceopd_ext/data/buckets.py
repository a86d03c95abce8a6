"""Chooses the bucket for an image of a given size, as sd-scripts does (library/train_util.py, class BucketManager).

The same parameters give the same buckets, so a dataset gives the same result in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from danceopd_ext.data.resolutions import Size
from danceopd_ext.errors import UserError


@dataclass(frozen=True)
class BucketRules:
    """The bucket keys of one `[[datasets]]` table; all lengths in pixels.

    Without `enable_bucket` there is one bucket: `resolution` itself.
    """

    resolution: Size
    enable_bucket: bool = False
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False

    def checked(self, where: str) -> BucketRules:
        """Return the rules with both limits moved outwards to multiples of the step, as sd-scripts does.

        Raises UserError if the resolution lies outside the limits. `where` names the file and the table.
        """
        if not self.enable_bucket:
            return self
        step = self.bucket_reso_steps
        low = self.min_bucket_reso // step * step
        high = -(-self.max_bucket_reso // step) * step
        width, height = self.resolution
        if min(self.resolution) < low:
            raise UserError(
                f"{where}: min_bucket_reso = {self.min_bucket_reso} is more than the resolution {width}x{height}. "
                f"Set min_bucket_reso to at most {min(self.resolution)}."
            )
        if max(self.resolution) > high:
            raise UserError(
                f"{where}: max_bucket_reso = {self.max_bucket_reso} is less than the resolution {width}x{height}. "
                f"Set max_bucket_reso to at least {max(self.resolution)}."
            )
        if width * height < step * step:
            raise UserError(
                f"{where}: bucket_reso_steps = {step} is more than the resolution {width}x{height}. Set "
                f"bucket_reso_steps to at most {math.isqrt(width * height)}, such as 64 or 32."
            )
        return BucketRules(self.resolution, True, low, high, step, self.bucket_no_upscale)

    @cached_property
    def buckets(self) -> list[Size]:
        """Return all bucket sizes, sorted; unused if `bucket_no_upscale` makes them from the images."""
        if not self.enable_bucket:
            return [self.resolution]
        area = self.resolution[0] * self.resolution[1]
        step, high = self.bucket_reso_steps, self.max_bucket_reso
        square = int(math.sqrt(area) // step) * step
        sizes = {(square, square)}
        # The lower limit may be rounded down to 0, which is not a bucket.
        for one in range(max(self.min_bucket_reso, step), high + 1, step):
            other = min(high, area // one // step * step)
            if other >= max(self.min_bucket_reso, step):
                sizes |= {(one, other), (other, one)}
        return sorted(sizes)

    def select(self, image: Size) -> Size:
        """Return the bucket (width, height) for an image of this size.

        Raises ValueError if no bucket is left for it: shrunk by the rules, it is smaller than one step.
        """
        if self.enable_bucket and self.bucket_no_upscale:
            size = self._shrunk(image)
        else:
            # No two buckets have the same shape, so an image of bucket size finds its own.
            aspect = image[0] / image[1]
            size = min(self.buckets, key=lambda bucket: abs(bucket[0] / bucket[1] - aspect))
        if min(size) < 1:
            raise ValueError(f"{image[0]}x{image[1]} is smaller than one bucket step ({self.bucket_reso_steps})")
        return size

    def resized(self, image: Size, bucket: Size) -> Size:
        """Return the size to which an image is resized before its middle is cut out as its bucket."""
        if self.enable_bucket and self.bucket_no_upscale:
            return self._fitted(image)
        return covering(image, bucket)

    def _floor(self, length: float) -> int:
        """Round to whole pixels, then down to a whole step."""
        return int(length + 0.5) // self.bucket_reso_steps * self.bucket_reso_steps

    def _shrunk(self, image: Size) -> Size:
        """Return the bucket of an image that may be shrunk but never enlarged."""
        step = self.bucket_reso_steps
        width, height = self._fitted(image)
        return width // step * step, height // step * step

    def _fitted(self, image: Size) -> Size:
        """Return the size of an image that is shrunk to the resolution, but never enlarged."""
        area = self.resolution[0] * self.resolution[1]
        aspect = image[0] / image[1]
        width, height = image
        if image[0] * image[1] > area:
            fit_width = math.sqrt(area * aspect)
            fit_height = area / fit_width
            # Either the width or the height becomes a whole step; the choice that keeps the aspect ratio best wins.
            by_width = self._floor(fit_width)
            by_height = self._floor(fit_height)
            height_then = self._floor(by_width / aspect)
            width_then = self._floor(by_height * aspect)
            if not (by_height and height_then):
                return 0, 0
            if abs(by_width / height_then - aspect) < abs(width_then / by_height - aspect):
                width, height = by_width, int(by_width / aspect + 0.5)
            else:
                width, height = int(by_height * aspect + 0.5), by_height
        return width, height


def around(resolution: Size, multiple: int) -> BucketRules:
    """Return the rules for pictures that no dataset describes, all sides multiples of `multiple`.

    The limits stand to the resolution as sd-scripts' defaults (256 and 1024) to 512; steps are its 64 or less.
    """
    low, high = min(resolution) // 2, 2 * max(resolution)
    step = max(multiple, min(64, min(resolution) // 8) // multiple * multiple)
    return BucketRules(resolution, True, max(step, low // step * step), -(-high // step) * step, step)


def covering(image: Size, size: Size) -> Size:
    """Return the smallest size with the image's proportions that covers `size`, rounded to whole pixels."""
    scale = max(size[0] / image[0], size[1] / image[1])
    return int(image[0] * scale + 0.5), int(image[1] * scale + 0.5)
