"""Reads prompts with settings: lines with kohya's flags (`a cat --w 768 --d 5`), and sd-scripts' .toml and .json files.

It reads the lines of prompt files, which are trained on, and of sample prompts, which are drawn. Semantics:
line_to_prompt_dict and load_prompts in sd-scripts library/sampling.py and musubi-tuner training/sampling_prompts.py. A
flag may have capitals, takes what follows up to the next flag, and without a value takes nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from danceopd_ext.data.ui_syntax import settings_lines, settings_note
from danceopd_ext.errors import UserError, counted, few, readable
from danceopd_ext.foreign.json import parse_json
from danceopd_ext.foreign.text import read_text
from danceopd_ext.foreign.toml import parse_toml

#: A word must follow the dashes at once, so that "a -- b" is text.
_FLAG = re.compile(r"(?:^|\s)--([A-Za-z][\w-]*)(?:=|(?=\s)|$)")

#: flag -> the key of the same meaning in a .toml or .json file
FLAGS = {
    "w": "width",
    "h": "height",
    "n": "negative_prompt",
    "d": "seed",
    "s": "sample_steps",
    "l": "scale",
    "ci": "source",
    "cn": "source",
    "g": "guidance_scale",
    "ss": "sample_sampler",
    "fs": "flow_shift",
    "i": "image",
    "mk": "mask_image",
    "am": "additional_network_multiplier",
    "ctr": "cfg_trunc_ratio",
    "rcfg": "renorm_cfg",
    "f": "frame_count",
    "ei": "end_image_path",
    "of": "one_frame",
}
#: other names of these keys
_SAME_KEY = {
    "controlnet_image": "source",
    "control_image_path": "source",
    "control_video_path": "source",
    "cfg_scale": "scale",
    "discrete_flow_shift": "flow_shift",
    "image_path": "image",
    "steps": "sample_steps",
}
#: why a key of sd-scripts or musubi-tuner has no effect here
NO_EFFECT = {
    "guidance_scale": "the model's pipeline sets the embedded guidance; --l is the guidance scale",
    "sample_sampler": "the model's pipeline sets the sampler",
    "flow_shift": "the model's pipeline sets the noise levels",
    "image": "start images are not supported",
    "mask_image": "no mask",
    "additional_network_multiplier": "further LoRAs are not loaded",
    "cfg_trunc_ratio": "guidance applies to all steps",
    "renorm_cfg": "the model's pipeline sets the guidance",
    "frame_count": "no video",
    "end_image_path": "no video",
    "one_frame": "no video",
}
#: suffixes of tables, whose lines are not prompts
_OTHER_FILES = (".csv", ".tsv", ".jsonl", ".yaml", ".yml")


@dataclass(frozen=True)
class Setting:
    """One setting of a prompt: its key (see FLAGS; "" where it is unknown), as written ("--w", "width"), its value."""

    key: str
    written: str
    value: object


@dataclass(frozen=True)
class Entry:
    """One prompt with its settings; `place` is where it stands in the file, such as "line 3"."""

    prompt: str
    settings: tuple[Setting, ...] = ()
    place: str = ""

    def all_of(self, key: str) -> list[Setting]:
        """Return the settings of this key, in order."""
        return [setting for setting in self.settings if setting.key == key]

    def last_of(self, key: str) -> Setting | None:
        """Return the setting of this key that counts: as in sd-scripts, the last one."""
        return (self.all_of(key) or [None])[-1]


def read_line(line: str, place: str = "") -> Entry:
    """Return the prompt of a line and its flags. Values are the text behind the flag, without blanks around it."""
    prompt, *flags = _FLAG.split(line.strip())
    settings = (
        Setting(FLAGS.get(name.lower(), ""), f"--{name}", value.strip())
        for name, value in zip(flags[::2], flags[1::2], strict=True)
    )
    return Entry(prompt.strip(), tuple(settings), place)


def read_lines(text: str) -> tuple[list[Entry], list[str]]:
    """Return the prompts of a text, one per line, and the places of pasted generation settings, which are left out.

    Blank lines and lines that begin with # are skipped.
    """
    lines = text.split("\n")
    pasted = dict.fromkeys(settings_lines(lines))
    entries = [
        read_line(line, f"line {number + 1}")
        for number, line in enumerate(lines)
        if number not in pasted and line.strip() and not line.lstrip().startswith("#")
    ]
    return entries, [f"line {number + 1}" for number in pasted]


@dataclass
class Unused:
    """Counts the settings of a file that have no effect, for one note."""

    counts: Counter[Setting] = field(default_factory=Counter)

    def add(self, entry: Entry, used: Container[str]) -> None:
        """Count the settings of an entry except the keys in `used`."""
        self.counts.update({Setting(s.key, s.written, None) for s in entry.settings if s.key not in used})

    def notes(self, where: str, reasons: Mapping[str, str] = NO_EFFECT, unit: str = "line") -> list[str]:
        """Return a note on flags that are known and have no effect here, and one on unknown ones; or none."""
        known = {setting: count for setting, count in self.counts.items() if setting.key}
        told = [
            f"{_counted(setting, count, unit)}{f': {why}' if (why := reasons.get(setting.key)) else ''}"
            for setting, count in sorted(known.items(), key=lambda pair: pair[0].written)
        ]
        notes = [f"{where}: no effect here: {'; '.join(told)}"] if told else []
        unknown = sorted(_counted(setting, count, unit) for setting, count in self.counts.items() if not setting.key)
        if unknown:
            notes.append(
                f"{where}: unknown and left out: {few(unknown, 8)}. Known: {', '.join(f'--{name}' for name in FLAGS)}"
            )
        return [readable(note) for note in notes]


def _counted(setting: Setting, count: int, unit: str) -> str:
    return f"{setting.written} ({counted(count, unit)})"


def read_sample_file(path: Path) -> tuple[list[Entry], list[str]]:
    """Return the sample prompts of a .toml or .json file, or else of a text file, and notes for the user.

    .toml has a table `[prompt]` with a list `[[prompt.subset]]`, whose entries inherit from the table; .json has a
    list of objects or lines. Keys: prompt, negative_prompt, width, height, seed, sample_steps, scale, controlnet_image,
    control_image_path (or a list of them). Line breaks inside a prompt become blanks. Raises UserError.
    """
    text = read_text(path, "file of sample prompts")
    suffix = path.suffix.lower()
    if suffix in _OTHER_FILES:
        raise UserError(
            f"{path}: sample prompts must be a .txt file with one prompt per line, a .toml or a .json file, not "
            f'"{suffix}".'
        )
    if suffix not in (".toml", ".json"):
        entries, pasted = read_lines(text)
        return entries, settings_note(str(path), pasted)
    records = _toml_records(path, text) if suffix == ".toml" else _json_records(path, text)
    return [_entry(record, path, place) for place, record in records], []


def _json_records(path: Path, text: str) -> Iterator[tuple[str, object]]:
    records = parse_json(text, str(path))
    if not isinstance(records, list):
        raise UserError(
            f'{path}: sample prompts in .json are a list, such as [{{"prompt": "a cat", "width": 1024}}]; this is '
            f"{'an object' if isinstance(records, dict) else 'one value'}."
        )
    return ((f"prompt {number}", record) for number, record in enumerate(records, 1))


def _toml_records(path: Path, text: str) -> Iterator[tuple[str, object]]:
    table = parse_toml(text, str(path), r"controlnet_image = 'C:\images\1.png'").get("prompt")
    if not isinstance(table, dict):
        raise UserError(
            f"{path}: sample prompts in .toml are [prompt], whose keys apply to all, and below it [[prompt.subset]] "
            'with prompt = "..." for each.'
        )
    common = {key: value for key, value in table.items() if key != "subset"}
    subsets = table.get("subset", [{}])
    if not isinstance(subsets, list) or not all(isinstance(subset, dict) for subset in subsets):
        raise UserError(f"{path}: subset is a list: write [[prompt.subset]] with double brackets.")
    return ((f"subset {number}", {**common, **subset}) for number, subset in enumerate(subsets, 1))


def _entry(record: object, path: Path, place: str) -> Entry:
    if isinstance(record, str):
        return read_line(record, place)
    if not isinstance(record, dict):
        raise UserError(f'{path}, {place}: expected an object such as {{"prompt": "a cat"}}, or a line.')
    if not isinstance(record.get("prompt"), str):
        raise UserError(f'{path}, {place}: "prompt" is missing or is not text. The keys are: {", ".join(record)}.')
    known = {*FLAGS.values()}
    settings = []
    for name, value in record.items():
        if name in ("prompt", "enum", "subset") or value is None:
            continue
        key = _SAME_KEY.get(name, name)
        values = value if key == "source" and isinstance(value, list) else [value]
        settings += [Setting(key if key in known else "", name, one) for one in values]
    return Entry(one_line(record["prompt"]), tuple(settings), place)


def one_line(text: str) -> str:
    """Return a text of several lines as one, with blanks between them."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
