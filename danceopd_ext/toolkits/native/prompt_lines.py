"""Preview prompts in kohya's syntax: `a cat --n blurry --w 1024 --h 1024 --d 1 --l 4.5 --s 28`.

`make it night --ci photo.png` edits: musubi-tuner's flag, more than once for several source images; or sd-scripts'
`--cn`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

from danceopd_ext.config.danceopd import NO_GUIDANCE
from danceopd_ext.data.buckets import around
from danceopd_ext.data.items import Size
from danceopd_ext.data.prompts import SOURCE_FLAGS, size_of_source
from danceopd_ext.data.sources import SourceImages
from danceopd_ext.data.textfiles import find_beside, unquoted
from danceopd_ext.errors import UserError
from danceopd_ext.models.loading import Source

FLAG = re.compile(r"\s+--(\w+)(?:\s+|$)")
#: flag -> the value's name and type
NUMBERS = {
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "s": ("steps", int),
    "l": ("guidance_scale", float),
}


@dataclass(frozen=True)
class PreviewPrompt:
    """One picture to draw. `guidance_scale` 1 is none; `seed` None draws with the run's seed.

    `width` and `height` in pixels; 0 where the line does not say. `sources`: the source images that are edited; none
    draws from text.
    """

    prompt: str
    negative_prompt: str = ""
    width: int = 0
    height: int = 0
    seed: int | None = None
    guidance_scale: float = 1.0
    steps: int = 28
    sources: tuple[Path, ...] = ()


def parse_line(line: str) -> PreviewPrompt:
    """A line of a sample prompt file (sd-scripts, docs of `--sample_prompts`). Raises ValueError for a bad number."""
    parts = FLAG.split(" " + line.strip())
    values: dict[str, object] = {"prompt": parts[0].strip()}
    for flag, value in zip(parts[1::2], parts[2::2], strict=True):
        if flag == "n":
            values["negative_prompt"] = value.strip()
        elif flag in SOURCE_FLAGS:
            if not unquoted(value) or value.startswith("--"):
                raise ValueError(f"--{flag} names no source image")
            values["sources"] = (*values.get("sources", ()), Path(unquoted(value)))
        elif flag in NUMBERS:
            name, kind = NUMBERS[flag]
            try:
                values[name] = kind(value)
                if not math.isfinite(values[name]):
                    raise ValueError
            except ValueError:
                wanted = "whole number" if kind is int else "number"
                raise ValueError(f'--{flag} takes a {wanted}, not "{value.strip()}"') from None
    return PreviewPrompt(**values)


def read_preview_prompts(
    path: str, source: Source, config: dict, sources: SourceImages, resolution: Size
) -> list[PreviewPrompt]:
    """All prompts of the file. `sources`: what the model does with source images; it knows theirs afterwards.

    A line without a size has `resolution`, (width, height), or as an edit the proportions of its source image at about
    that area, like the prompts of a route. Raises UserError naming the file and line, also for what the model cannot
    draw.
    """
    file, limits = Path(path), source.family.size_limits(config, source.vae_scale_factor)
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # splitlines cuts at U+2028 and the like too
    except FileNotFoundError:
        raise UserError(f"{path} (sample_prompts) does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} (sample_prompts) cannot be read as UTF-8 text ({error}).") from error
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            prompt = parse_line(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}.") from error
        found = tuple(find_beside(str(image), file.parent) for image in prompt.sources)
        prompt = _with_size(replace(prompt, sources=found), resolution, limits.multiple, f"{path}, line {number}")
        for side in (prompt.width, prompt.height):
            if side % limits.multiple or not 0 < side <= limits.maximum:
                raise UserError(
                    f"{path}, line {number}: {prompt.width}x{prompt.height} cannot be drawn; "
                    f"sides are multiples of {limits.multiple}, up to {limits.maximum} (--w and --h)."
                )
        if prompt.steps < 1:
            raise UserError(f"{path}, line {number}: --s must be 1 or more.")
        if prompt.guidance_scale < 1:
            raise UserError(
                f"{path}, line {number}: --l {prompt.guidance_scale:g}: it must be 1 or more; {NO_GUIDANCE}."
            )
        sources.sizes(prompt.sources, (prompt.width, prompt.height), f"{path}, line {number}")
        prompts.append(prompt)
    if not prompts:
        raise UserError(f"{path} (sample_prompts) has no prompt.")
    return prompts


def _with_size(prompt: PreviewPrompt, resolution: Size, multiple: int, where: str) -> PreviewPrompt:
    width, height = resolution
    if prompt.sources and not (prompt.width or prompt.height):
        width, height = around(resolution, multiple).select(size_of_source(prompt.sources[0], where))
    return replace(prompt, width=prompt.width or width, height=prompt.height or height)
