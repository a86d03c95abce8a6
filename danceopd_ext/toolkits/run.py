"""The command `train_danceopd.py --config preset.toml [--any_argument value]`."""

from __future__ import annotations

import os
import sys

from danceopd_ext.config.fields import key_types
from danceopd_ext.config.load import flat_keys, load_preset
from danceopd_ext.config.schema import SECTIONS
from danceopd_ext.errors import UserError, nearest
from danceopd_ext.quiet import quieten

USAGE = """usage: accelerate launch train_danceopd.py --config preset.toml [--any_argument value ...]

Trains one LoRA from the teachers that the preset names. Every preset key is also an argument and then wins over the
file; the README lists them all."""


def parse_command(arguments: list[str]) -> tuple[str, dict[str, list[str]]]:
    """`--config FILE --key word ...` -> the file and the words of each override. Raises UserError."""
    values: dict[str, list[str]] = {}
    known = flat_keys()
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    switches = {name for name, section in known.items() if key_types(SECTIONS[section])[name] is bool}
    place = 0
    while place < len(words):
        flag, following = words[place], words[place + 1 :]
        if not flag.startswith("--"):
            raise UserError(f'unexpected "{flag}": arguments are written --name value.')
        taken = []
        while following and not following[0].startswith("--"):
            taken.append(following.pop(0))
        name = flag[2:].replace("-", "_")
        if not taken and name not in switches:
            raise UserError(f"{flag} needs a value: write {flag} VALUE.")
        values[name] = taken or ["true"]
        place += 1 + len(taken)
    config = " ".join(values.pop("config", None) or values.pop("config_file", []))
    for name in values:
        if name not in known:
            raise UserError(f"unknown argument --{name}.{nearest(name, [*known, 'config'])}")
    if not config:
        raise UserError("no preset: give --config preset.toml (presets/ has one for each purpose).")
    return config, values


def main(arguments: list[str] | None = None) -> None:
    """Read the preset and hand it to its toolkit. Raises UserError and TrainingError (see cli.run)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return
    preset = load_preset(*parse_command(arguments))
    quieten()
    from danceopd_ext.toolkits.native.processes import all_processes  # here: they take seconds to import
    from danceopd_ext.toolkits.native.train import train

    with all_processes():
        try:
            path = train(preset)
        except UserError:
            if os.environ.get("LOCAL_RANK", "0") != "0":
                sys.exit(2)  # every process has the same problem; the first one tells it
            raise
    if os.environ.get("RANK", "0") == "0":
        print(f"done: {path}")
