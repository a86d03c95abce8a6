"""A labelled picture grid: one row per prompt, one column per model, a mark for right or wrong on every picture."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ENLARGE = 4
GAP = 8
MARK = 16
TEXT_WIDTH = 230
INK, PAPER, RIGHT, WRONG = (35, 35, 40), (250, 250, 250), (20, 140, 60), (205, 40, 40)


def draw_grid(
    prompts: Sequence[str],
    columns: Mapping[str, np.ndarray],
    passed: Mapping[str, Sequence[bool]] | None = None,
    title: str = "",
) -> Image.Image:
    """The grid as an RGB picture.

    `columns` maps a model's label to uint8 images [prompts, h, w, 3]; `passed`, where given, holds for the same
    label one bool per prompt, drawn as a tick or a cross.
    """
    first = next(iter(columns.values()))
    side = first.shape[1] * ENLARGE
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    top = GAP + (26 if title else 0) + 24
    pitch = side + GAP + (MARK + 4 if passed else 0)  # marks stand beside the pictures, never on them
    width = GAP + TEXT_WIDTH + len(columns) * pitch
    canvas = Image.new("RGB", (width, top + len(prompts) * (side + GAP)), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((GAP, GAP), title, fill=INK, font=font)
    for row, prompt in enumerate(prompts):
        middle = top + row * (side + GAP) + side // 2
        pen.multiline_text((GAP, middle), wrap(prompt, TEXT_WIDTH - GAP, small), fill=INK, font=small, anchor="lm")
    for column, (label, images) in enumerate(columns.items()):
        left = GAP + TEXT_WIDTH + column * pitch
        pen.text((left + side // 2, top - 14), label, fill=INK, font=small, anchor="mm")
        for row, pixels in enumerate(images):
            place = (left, top + row * (side + GAP))
            canvas.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), place)
            if passed and label in passed:
                _draw_mark(pen, place[0] + side + 4, place[1] + side - MARK - 1, passed[label][row])
    return canvas


def wrap(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """Breaks text into lines of at most `width` pixels, between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _draw_mark(pen: ImageDraw.ImageDraw, left: int, top: int, good: bool) -> None:
    """A tick or a cross in a disc."""
    pen.ellipse((left, top, left + MARK, top + MARK), fill=RIGHT if good else WRONG, outline=PAPER, width=1)
    strokes = [[(4, 8), (7, 11), (12, 5)]] if good else [[(5, 5), (11, 11)], [(5, 11), (11, 5)]]
    for stroke in strokes:
        pen.line([(left + x, top + y) for x, y in stroke], fill=PAPER, width=2)
