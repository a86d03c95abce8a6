"""Labels in characters that Pillow's own font lacks."""

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import ImageFont

from danceopd_ext import fonts
from danceopd_ext.fonts import font_for, has_all
from danceopd_ext.picture_grid import draw_grid, wrap

CHINESE = "把猫变红"


def square(left, right):
    pen = TTGlyphPen(None)
    pen.moveTo((left, 0))
    for point in ((left, 700), (right, 700), (right, 0)):
        pen.lineTo(point)
    pen.closePath()
    return pen.glyph()


@pytest.fixture
def chinese_font(tmp_path, monkeypatch):
    """A font file that knows these four characters and no others, the only one of the system."""
    names = {ord(mark): f"mark{i}" for i, mark in enumerate(CHINESE)}
    order = [".notdef", *names.values()]
    glyphs = {name: square(100, 300 + 100 * i) for i, name in enumerate(order)}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(order, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Four", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = tmp_path / "four.ttf"
    builder.save(path)
    monkeypatch.setattr(fonts, "FONTS", ("no such font.ttf", str(path)))
    return path


def grid(prompt, **more):
    return np.asarray(draw_grid([prompt], {"x": [np.zeros((64, 64, 3), np.uint8)]}, **more))


def test_pillows_own_font_is_used_for_what_it_has(chinese_font):
    own = ImageFont.load_default(13)
    assert has_all(own, "a red cat, 2 of 3") and not has_all(own, CHINESE)
    assert font_for("a red cat", 13).getname() == own.getname()


def test_other_characters_come_from_a_font_of_the_system(chinese_font):
    assert font_for(CHINESE, 13).getname()[0] == "Four"
    assert font_for(CHINESE + "狗", 13) is None
    shown = grid(CHINESE)
    assert np.array_equal(grid(CHINESE, names=["k3"]), shown)
    assert not np.array_equal(shown, grid(CHINESE[::-1]))  # not one box four times


def test_without_a_font_the_name_stands_there(monkeypatch):
    monkeypatch.setattr(fonts, "FONTS", ())
    assert np.array_equal(grid(CHINESE, names=["k3"]), grid("k3"))
    assert not np.array_equal(grid(CHINESE), grid("k3"))
    assert np.array_equal(grid("a cat", names=["k3"]), grid("a cat"))


def test_a_line_without_spaces_is_cut_between_characters(chinese_font):
    font = font_for(CHINESE, 13)
    text = CHINESE * 10
    lines = wrap(text, 150, font).split("\n")
    assert "".join(lines) == text
    assert len(lines) == 4 and all(font.getlength(line) <= 150 for line in lines)
    assert wrap("a " + "x" * 60, 150, ImageFont.load_default(13)).startswith("a\nxxx")
    assert wrap("", 150, font) == ""
