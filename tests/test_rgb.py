"""Pictures of any depth as RGB with 8 bits."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from danceopd_ext.errors import UserError
from danceopd_ext.rgb import as_rgb

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def opened(image, kind):
    file = io.BytesIO()
    image.save(file, kind)
    return Image.open(file)


@pytest.mark.parametrize(
    "image",
    [
        opened(Image.fromarray(RAMP), "PNG"),
        opened(Image.fromarray(RAMP), "TIFF"),
        opened(Image.fromarray(RAMP), "PPM"),
        Image.fromarray(RAMP),
        Image.frombytes("I;16B", (256, 256), RAMP.astype(">u2").tobytes()),
    ],
    ids=["png", "tiff", "pgm", "I;16", "I;16B"],
)
def test_grey_of_16_bits_keeps_its_proportions(image):
    pixels = np.asarray(as_rgb(image, "a"))
    assert pixels.shape == (256, 256, 3)
    assert np.abs(pixels - RAMP[..., None] / 257).max() <= 0.5
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_of_32_bits_are_refused(kind):
    with pytest.raises(UserError, match=r"a\.tiff: its pixels are 32-bit numbers .*Save it with 8 or 16 bits"):
        as_rgb(opened(Image.fromarray(RAMP.astype(kind)), "TIFF"), "a.tiff")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_other_modes_are_as_pillow_has_them(mode):
    image = Image.effect_noise((16, 16), 60).convert("RGB").convert(mode)
    assert np.array_equal(as_rgb(image, "a"), image.convert("RGB"))
