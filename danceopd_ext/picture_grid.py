"""Draws a labelled grid of pictures: a row per prompt, a column per model, and marks for right and wrong if known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from danceopd_ext.fonts import Font, font_for

GAP = 8
MARK = 16
TEXT_WIDTH = 230
SMALLEST, LARGEST = 128, 512
INK, PAPER, RIGHT, WRONG = (35, 35, 40), (250, 250, 250), (20, 140, 60), (205, 40, 40)


def draw_grid(
    prompts: Sequence[str],
    columns: Mapping[str, Sequence[np.ndarray]],
    passed: Mapping[str, Sequence[bool]] | None = None,
    title: str = "",
    names: Sequence[str] = (),
) -> Image.Image:
    """Return the grid as an RGB picture.

    `columns`: a model's label -> uint8 pictures [h, w, 3], one per prompt; sizes may differ between prompts. Small
    pictures are enlarged pixel by pixel, large ones shrunk. `passed`: label -> one bool per prompt, drawn as a mark.
    `names`: shown instead of prompts whose characters no font here has; without `names` these appear as boxes.
    """
    cells = {label: [fit(picture) for picture in pictures] for label, pictures in columns.items()}
    rows = list(zip(*cells.values(), strict=True))
    heights = [max(cell.height for cell in row) for row in rows]
    side = max(cell.width for row in rows for cell in row)
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    top = GAP + (26 if title else 0) + 24
    pitch = side + GAP + (MARK + 4 if passed else 0)  # marks are next to the pictures, never on them
    size = GAP + TEXT_WIDTH + len(columns) * pitch, top + sum(heights) + GAP * len(heights)
    canvas = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((GAP, GAP), title, fill=INK, font=font)
    for column, label in enumerate(cells):
        middle = GAP + TEXT_WIDTH + column * pitch + side // 2
        pen.multiline_text((middle, top - 6), wrap(label, side, small), fill=INK, font=small, anchor="md")
    for row, prompt in enumerate(prompts):
        y = top + sum(heights[:row]) + GAP * row
        own = font_for(prompt, 13)
        if own is None and names:
            prompt = names[row]
        text = wrap(prompt, TEXT_WIDTH - GAP, own or small)
        pen.multiline_text((GAP, y + heights[row] // 2), text, fill=INK, font=own or small, anchor="lm")
        for column, (label, cell) in enumerate(zip(cells, rows[row], strict=True)):
            x = GAP + TEXT_WIDTH + column * pitch
            canvas.paste(cell, (x, y))
            if passed and label in passed:
                _draw_mark(pen, x + cell.width + 4, y + cell.height - MARK - 1, passed[label][row])
    return canvas


def fit(picture: np.ndarray) -> Image.Image:
    """Return a picture with SMALLEST to LARGEST pixels on its longer side."""
    image = Image.fromarray(picture)
    longest = max(image.size)
    if longest < SMALLEST:
        factor = -(-SMALLEST // longest)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if longest > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return image


def wrap(text: str, width: int, font: Font) -> str:
    """Break text into lines of at most `width` pixels: between words, and within a word that is longer than a line.

    Chinese and Japanese have no spaces: a whole sentence is such a word.
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines += _pieces(word, width, font)
    return "\n".join(line for line in lines if line)


def _pieces(word: str, width: int, font: Font) -> list[str]:
    """Return the word in pieces of at most `width` pixels, each with at least one character."""
    pieces = [word[0]]
    for mark in word[1:]:
        if font.getlength(pieces[-1] + mark) <= width:
            pieces[-1] += mark
        else:
            pieces.append(mark)
    return pieces


def _draw_mark(pen: ImageDraw.ImageDraw, left: int, top: int, good: bool) -> None:
    """Draw a tick or a cross in a disc."""
    pen.ellipse((left, top, left + MARK, top + MARK), fill=RIGHT if good else WRONG, outline=PAPER, width=1)
    strokes = [[(4, 8), (7, 11), (12, 5)]] if good else [[(5, 5), (11, 11)], [(5, 11), (11, 5)]]
    for stroke in strokes:
        pen.line([(left + x, top + y) for x, y in stroke], fill=PAPER, width=2)
