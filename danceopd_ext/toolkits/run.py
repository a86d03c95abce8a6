"""Runs the command `train_danceopd.py --config preset.toml [--any_argument value]`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from danceopd_ext.config.command_line import split_flags
from danceopd_ext.config.hosted_preset import HostedPreset, split_preset
from danceopd_ext.config.load import flat_keys, load_preset
from danceopd_ext.config.schema import Preset
from danceopd_ext.config.toolkits import TOOLKITS, hosted_toolkits, quoted
from danceopd_ext.errors import MissingFile, Stopped, UserError, nearest
from danceopd_ext.foreign.text import read_text
from danceopd_ext.safe_output import safe_output
from danceopd_ext.toolkits.launched import STARTED_BY, about_exit_code, is_first_process, watched_launcher
from danceopd_ext.toolkits.native.stop import Interruptible, ask, end_process

#: seconds that the first process has to print what is wrong
HEAD_START = 5.0

USAGE = f"""usage: python train_danceopd.py --config preset.toml [--any_argument value ...]

Trains one LoRA from the teachers that the preset names. Every preset key is also an argument, which overrides the
file; presets/README.md lists them all. With toolkit = {quoted(hosted_toolkits())} every argument of that toolkit is one
as well. For several GPUs: accelerate launch -q --num_processes 2 train_danceopd.py --config preset.toml

  -h, --help   print this and train nothing"""
NOTHING_LEARNT = (
    "stopped before the first step: nothing was learnt or saved; encoded prompts and pictures are kept. Start "
    "the run again with the same command."
)
ENDED = "stopped after the last step; the lines above say what was saved"
#: what asks for USAGE
HELP = ("-h", "--help")


def parse_command(arguments: list[str]) -> tuple[str, dict[str, list[str]]]:
    """Split `--config FILE --key word ...` into the file and the words of each flag; the preset decides what they mean.

    Raises UserError.
    """
    values = split_flags(arguments)
    config = " ".join(values.pop("config", None) or values.pop("config_file", []))
    if not config:
        typo = next((name for name in values if name not in flat_keys() and nearest(name, ["config"])), None)
        hint = f" --{typo} is not --config." if typo else ""
        raise UserError(f"no preset: give --config preset.toml (presets/ has one for each purpose).{hint}")
    return config, values


def main(arguments: list[str] | None = None) -> None:
    """Read the preset and pass it to its toolkit. Raises UserError, TrainingError and Stopped (see cli.run)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or any(word in HELP for word in arguments):
        print(USAGE)
        return
    with safe_output():
        with told_once(), stoppable():
            config, flags = parse_command(arguments)
            try:
                hosted = split_preset(config, flags)
                native = hosted is None
                lines = [f"done: {train_native(load_preset(config, flags))}"] if native else train_hosted(hosted)
            except MissingFile as problem:
                raise UserError(f"{problem}{line_of(config, problem.path)}") from None
        if is_first_process():
            print("\n".join(lines))


@contextmanager
def stoppable() -> Iterator[None]:
    """Let the user, the system and the end of the launcher stop the block. Raises Stopped if one of them did.

    Nothing has been learnt here; the training loop, which has results to keep, handles requests itself.
    """
    with Interruptible() as block, watched_launcher(ask, end_process):
        try:
            yield
        except (KeyboardInterrupt, Stopped) as stop:
            if is_first_process() and (note := about_exit_code()):
                print(note)
            if isinstance(stop, Stopped):
                raise
            raise Stopped(ENDED if block.has_learnt else NOTHING_LEARNT) from None


def line_of(preset: str, path: Path) -> str:
    """Return ` Line 7 of preset.toml: ...`, the line that names the path: it may say how to get the file."""
    names = {path.as_posix(), str(path)}
    home = os.path.expanduser("~")
    if path.is_relative_to(home):
        names.add(f"~/{path.relative_to(home).as_posix()}")
    for number, line in enumerate(read_text(Path(preset), "preset").split("\n"), 1):
        if any(name in line for name in names):
            return f" Line {number} of {preset}: {line.strip()}"
    return ""


@contextmanager
def told_once() -> Iterator[None]:
    """Let only the first process of a machine report a problem that all processes have; the others wait for it.

    torchrun ends all processes as soon as one has ended, which would cut off a message that is not written yet. This
    includes the message that a run was stopped.
    """
    try:
        yield
    except Stopped:
        if os.environ.get("LOCAL_RANK", "0") != "0" and STARTED_BY not in os.environ:
            time.sleep(HEAD_START)
        raise
    except UserError:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(HEAD_START)
            sys.exit(2)
        raise


def train_native(preset: Preset) -> Path:
    """Train with our own loop."""
    # imported here: a toolkit's environment lacks what these need, and they are slow to import
    from danceopd_ext.library_logging import silence_libraries

    silence_libraries()
    from danceopd_ext.toolkits.native.launcher import refuse_engines
    from danceopd_ext.toolkits.native.processes import all_processes
    from danceopd_ext.toolkits.native.train import train

    refuse_engines()
    with all_processes():
        return train(preset)


def train_hosted(preset: HostedPreset) -> list[str]:
    """Train inside the toolkit that the preset names. Returns the lines to print at the end."""
    from danceopd_ext.toolkits.hosted.console import tell
    from danceopd_ext.toolkits.hosted.conversion_hint import convert_line  # imported here: these need torch

    for note in preset.notes:
        tell(f"note: {note}")
    path = TOOLKITS[preset.toolkit].part(".run:train")(preset)
    return [line for line in (f"done: {path}", convert_line(preset.toolkit, preset.model_type, path)) if line]
