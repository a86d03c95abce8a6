"""Reads preview prompts from a file of sample prompts and checks them against what the model can draw.

`a cat --n blurry --w 1024 --h 1024 --d 1 --l 4.5 --s 28`; `make it night --ci photo.png` edits: musubi-tuner's flag,
more than once for several source images; or sd-scripts' `--cn`. See data/prompt_entries.py for files of both kinds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from danceopd_ext.data.buckets import around
from danceopd_ext.data.items import Size
from danceopd_ext.data.prompt_entries import NO_EFFECT, Entry, Setting, Unused, one_line, read_line, read_sample_file
from danceopd_ext.data.prompts import size_of_source
from danceopd_ext.data.source_images import SourceImages
from danceopd_ext.data.ui_syntax import syntax_notes
from danceopd_ext.data.user_paths import find_beside, unquoted
from danceopd_ext.errors import UserError, few, readable, shorten
from danceopd_ext.models.family import SizeLimits
from danceopd_ext.ranges import GUIDANCE, PIXELS, SEED, SOLVER_STEPS

#: key -> the field of PreviewPrompt and its type
NUMBERS = {
    "width": ("width", int),
    "height": ("height", int),
    "seed": ("seed", int),
    "sample_steps": ("steps", int),
    "scale": ("guidance_scale", float),
}
USED = (*NUMBERS, "negative_prompt", "source")
#: key -> the numbers that it takes; a side of 0 counts as not given, and a seed below 0 means the run's seed
WITHIN = {
    "width": replace(PIXELS, minimum=0),
    "height": replace(PIXELS, minimum=0),
    "seed": replace(SEED, minimum=None),
    "sample_steps": SOLVER_STEPS,
    "scale": GUIDANCE,
}


@dataclass(frozen=True)
class PreviewPrompt:
    """One picture to draw. `guidance_scale` 1 means no guidance; `seed` None means the run's seed.

    `width` and `height` in pixels; 0 if the line does not say. `sources`: the source images that are edited; none
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
    """Read a line of a sample prompt file (sd-scripts, docs of `--sample_prompts`).

    Raises ValueError for a bad value.
    """
    return parse_entry(read_line(line))


def parse_entry(entry: Entry) -> PreviewPrompt:
    """Return the picture that an entry of a sample prompt file asks for. Raises ValueError for a bad value."""
    if not entry.prompt and entry.settings and entry.settings[0].written.startswith("--"):
        raise ValueError("there are flags but no prompt")
    values: dict[str, object] = {}
    for key, (name, kind) in NUMBERS.items():
        setting = entry.last_of(key)
        if setting:
            values[name] = _number(setting, kind)
    if values.get("seed", 0) < 0:  # "random" in UIs
        values["seed"] = None
    negative = entry.last_of("negative_prompt")
    if negative:
        values["negative_prompt"] = one_line(_text(negative))
    sources = entry.all_of("source")
    for setting in sources:
        if not unquoted(_text(setting)):
            raise ValueError(f"{setting.written} needs the path of a source image")
    return PreviewPrompt(entry.prompt, sources=tuple(Path(unquoted(_text(one))) for one in sources), **values)


def _number(setting: Setting, kind: type) -> int | float:
    try:
        value = kind(setting.value if isinstance(setting.value, str) else _plain(setting.value))
        if not math.isfinite(value):
            raise ValueError
    except (ValueError, OverflowError):
        wanted = "whole number" if kind is int else "number"
        raise ValueError(f'{setting.written} takes a {wanted}, not "{setting.value}"') from None
    if wrong := WITHIN[setting.key].wrong(value):
        what = {"seed": f"the largest seed is {SEED.maximum}", "sample_steps": f"it must be {SOLVER_STEPS.words()}"}
        raise ValueError(f"{setting.written} {shorten(str(setting.value))}: {what.get(setting.key, f'it {wrong}')}")
    return value


def _plain(value: object) -> str:
    """A number of a .toml or .json file as text; 64.0 is a whole number. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    return repr(int(value)) if isinstance(value, float) and value.is_integer() else repr(value)


def _text(setting: Setting) -> str:
    if not isinstance(setting.value, str):
        raise ValueError(f"{setting.written} takes text in quotes, not {setting.value!r}")
    return setting.value.strip()


def read_preview_prompts(
    path: str,
    limits: SizeLimits,
    sources: SourceImages,
    resolution: Size,
    notes: list[str] | None = None,
) -> list[PreviewPrompt]:
    """Return all prompts of the file.

    `limits`: the sizes that the model draws. `sources`: what the model does with source images; it knows theirs
    afterwards. `notes` gets what is not drawn as the file says. A prompt without a size has `resolution`, (width,
    height), or as an edit the proportions of its source image at about that area, like the prompts of a route. Raises
    UserError naming the file and place, also for what the model cannot draw.
    """
    file = Path(path)
    entries, more = read_sample_file(file)
    if not entries:
        raise UserError(f"{path} (sample_prompts) contains no prompt.")
    prompts = [_checked(entry, file, limits, sources, resolution) for entry in entries]
    if notes is not None:
        notes += [*more, *_notes(path, entries)]
    return prompts


def _checked(entry: Entry, file: Path, limits: SizeLimits, sources: SourceImages, resolution: Size) -> PreviewPrompt:
    """The entry's picture with its size and the paths of its source images. Raises UserError."""
    where = f"{file}, {entry.place}"
    try:
        prompt = parse_entry(entry)
    except ValueError as error:
        raise UserError(f"{where}: {error}.") from None
    found = tuple(find_beside(str(image), file.parent) for image in prompt.sources)
    prompt = _with_size(replace(prompt, sources=found), resolution, limits.multiple, where)
    for side in (prompt.width, prompt.height):
        if side % limits.multiple or not 0 < side <= limits.maximum:
            raise UserError(
                f"{where}: {prompt.width}x{prompt.height} cannot be drawn; "
                f"sides must be multiples of {limits.multiple}, up to {limits.maximum} (--w and --h)."
            )
    sources.sizes(prompt.sources, (prompt.width, prompt.height), where)
    return prompt


def _with_size(prompt: PreviewPrompt, resolution: Size, multiple: int, where: str) -> PreviewPrompt:
    width, height = resolution
    if prompt.sources and not (prompt.width or prompt.height):
        width, height = around(resolution, multiple).select(size_of_source(prompt.sources[0], where))
    return replace(prompt, width=prompt.width or width, height=prompt.height or height)


def _notes(path: str, entries: list[Entry]) -> list[str]:
    unused = Unused()
    for entry in entries:
        unused.add(entry, USED)
    notes = unused.notes(path, NO_EFFECT, "prompt")
    random = [entry.place for entry in entries for seed in entry.all_of("seed")[-1:] if str(seed.value).startswith("-")]
    if random:
        notes.append(f"{path}: a seed below 0 means the run's seed ({few(random)})")
    texts = [
        (entry.place, str(text))
        for entry in entries
        for text in (entry.prompt, *(setting.value for setting in entry.all_of("negative_prompt")))
    ]
    return [readable(note) for note in notes + syntax_notes(path, texts)]
