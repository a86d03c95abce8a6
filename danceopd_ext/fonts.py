"""Finds a font for labels: Pillow's own, or one of the system's for characters that it lacks."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

#: names of font files on Linux, Windows and macOS: with more of Latin, Greek and Cyrillic, then with Chinese,
#: Japanese and Korean
FONTS = (
    "DejaVuSans.ttf",
    "arial.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "DroidSansFallback.ttf",
    "msyh.ttc",
    "simhei.ttf",
    "simsun.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "STHeiti Light.ttc",
    "Arial Unicode.ttf",
)
#: no font has this character, so it shows how a font draws a missing one
_NOWHERE = "\U0010ffff"


def font_for(text: str, size: int) -> Font | None:
    """Return a font that has every character of the text; None if no font here has."""
    own = ImageFont.load_default(size)
    if has_all(own, text):
        return own
    return next((font for font in _system_fonts(FONTS, size) if has_all(font, text)), None)


def has_all(font: Font, text: str) -> bool:
    """Return whether the font has a glyph for every character."""
    try:
        lacking = _look(font, _NOWHERE)
        return all(_look(font, mark) != lacking for mark in set(text) if not mark.isspace())
    except UnicodeEncodeError:  # a bitmap font has only Latin letters
        return False


def _look(font: Font, mark: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(mark)
    return mask.size, bytes(mask)


@lru_cache(maxsize=8)
def _system_fonts(names: tuple[str, ...], size: int) -> tuple[Font, ...]:
    """Return the fonts that are installed; Pillow knows where each system keeps them."""
    found = []
    for name in names:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(found)
