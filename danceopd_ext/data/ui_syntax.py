"""Finds in prompts what only image UIs understand: their syntax, and the settings that they paste below a prompt.

Text encoders read all of it as words. Syntax stays in the prompt and is reported; pasted settings are left
out, which is reported too. Source of the forms: the prompt syntax of AUTOMATIC1111's web UI (attention, `BREAK`,
`AND`, extra networks, "infotext"), ComfyUI's `embedding:` and the wildcards of Dynamic Prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from danceopd_ext.errors import few

_FLAGS = re.IGNORECASE
#: name of the syntax, its form, and what to write
_SYNTAX: tuple[tuple[str, re.Pattern, str], ...] = (
    (
        "<lora:...>",
        re.compile(r"<(?:lora|lyco|lycoris|locon|hypernet|lbw)\s*:[^<>]*>", _FLAGS),
        "leave it out; the preset names the LoRAs, as teachers",
    ),
    (
        "embedding:NAME",
        re.compile(r"(?<![\w:])embedding:\S+|<(?:embed|embedding|ti)\s*:[^<>]*>", _FLAGS),
        "leave it out; embeddings are not loaded",
    ),
    (
        "(word:1.2)",
        # not "(12:30)", "(16:9)" or "(John 3:16)": a number without a point follows a letter or a blank only
        re.compile(r"(?<!\\)\([^()]*(?::\s*-?\d*\.\d+|(?<=[^\W\d]):\s*-?\d(?!\d)|(?<=[ )]):\s*-?\d(?!\d))\s*\)"),
        "write only the words",
    ),
    ("((word))", re.compile(r"(?<!\\)\(\s*\((?:[^()\\]|\\.)+\)\s*\)"), "write only the words"),
    (
        "[word]",
        re.compile(r"(?<!\\)\[(?=[^\[\]]*[^\W\d_])[^\[\]]*\]"),
        "write only the words; for [trigger], the trigger word",
    ),
    (
        "BREAK",
        re.compile(r"(?:^|(?<=[\s,;.]))(?<![A-Z]{2}\s)BREAK(?=$|[\s,;.])(?!\s[A-Z]{2})"),
        "write a comma or a full stop",
    ),
    ("AND", re.compile(r"(?<=\s)(?<![A-Z]{2}\s)AND(?=\s)(?!\s[A-Z]{2})"), 'write two prompts, or "and"'),
    ("__wildcard__", re.compile(r"(?<!\w)__\w[\w/*-]{0,100}?__(?!\w)"), "write the words; wildcard files are not read"),
)
_CHOICE = (
    "{a|b}",
    re.compile(r"\{(?=[^{}]*\|)[^{}]*\}"),
    "write one of them, or use a dataset_config with enable_wildcard = true",
)

_NEGATIVE = re.compile(r"\s*negative prompt\s*:", _FLAGS)
_SETTINGS = re.compile(r"\s*steps\s*:\s*\d+\s*,\s*[\w ]+:", _FLAGS)


def syntax_notes(where: str, prompts: Iterable[tuple[str, str]], wildcards: bool = False) -> list[str]:
    """Return a note on the syntax of UIs in these prompts, or none.

    `where` names the file or folder, `prompts` are (place in it, text). `wildcards`: a choice {a|b} works.
    """
    kinds = _SYNTAX if wildcards else (*_SYNTAX, _CHOICE)
    places: dict[str, dict[str, None]] = {}
    for place, text in prompts:
        for name, form, _ in kinds:
            if form.search(text):
                places.setdefault(name, {})[place] = None
    if not places:
        return []
    told = [f"{name} ({few(places[name])}): {remedy}" for name, _, remedy in kinds if name in places]
    return [f"{where}: prompts are plain text here, so the syntax of image UIs is read as words. {'; '.join(told)}."]


def settings_lines(lines: Sequence[str]) -> list[int]:
    """Return the numbers (from 0) of lines with generation settings that a UI pasted below a prompt, in order.

    These are "Negative prompt: ..." and, if "Steps: 20, Sampler: ..." follows before a blank line, the lines up to and
    including that.
    """
    found: dict[int, None] = {}
    for number, line in enumerate(lines):
        if _NEGATIVE.match(line):
            found |= dict.fromkeys(range(number, _end_of_negative(lines, number) + 1))
        elif _SETTINGS.match(line):
            found[number] = None
    return sorted(found)


def _end_of_negative(lines: Sequence[str], start: int) -> int:
    """Return the last line of the settings that begin with a negative prompt at `start`."""
    for number in range(start + 1, len(lines)):
        if _SETTINGS.match(lines[number]):
            return number
        if not lines[number].strip() or _NEGATIVE.match(lines[number]):
            break
    return start


def settings_note(where: str, places: Sequence[str]) -> list[str]:
    """Return a note on the pasted settings at these places, or none."""
    if not places:
        return []
    return [
        f'{where}: generation settings of a UI ("Negative prompt: ...", "Steps: 20, Sampler: ...") are left out: they '
        f"are not prompts ({few(places)})"
    ]
