"""Runs the commands of `python -m danceopd_ext`: inspect LoRA files, convert them, and plan runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from danceopd_ext.errors import Stopped, TrainingError, UserError, nearest, readable
from danceopd_ext.ranges import RANK
from danceopd_ext.safe_output import last_word
from danceopd_ext.system_errors import refused, show
from danceopd_ext.toolkits.launched import is_first_process
from danceopd_ext.whole_numbers import whole

DTYPES = ("fp16", "bf16", "float")


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Call `main` and return the exit code.

    0: done. 2: wrong input. 1: the run had to stop. 130: it was asked to stop (Ctrl-C, SIGTERM, a closed terminal).
    Every code but 0 comes with one message and no traceback, also for errors of the system or a disk (see
    system_errors.refused). Any other exception passes through: Python prints it and exits with 1. Output is UTF-8,
    whatever the console's code page, and a character that cannot be shown is replaced. A closed terminal does not
    change the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        main(sys.argv[1:] if argv is None else argv)
    except UserError as problem:
        last_word(f"error: {problem}", sys.stderr)
        return 2
    except TrainingError as problem:
        last_word(f"stopped: {problem}", sys.stderr)
        return 1
    except Stopped as stop:
        if is_first_process():
            last_word(str(stop), sys.stdout)
        return Stopped.code
    except Exception as problem:
        code, message = refused(problem)
        if not code:
            raise
        last_word(message, sys.stderr)
        return code
    except KeyboardInterrupt:
        last_word("stopped", sys.stderr)
        return Stopped.code
    return 0


def main(argv: Sequence[str]) -> None:
    """Parse the command line and run its command. Raises UserError."""
    parser = _parser()
    arguments, keys = parser.parse_known_args(argv)
    if keys and not getattr(arguments, "takes_keys", False):
        parser.error(f"unrecognized arguments: {' '.join(keys)}")
    arguments.keys = keys
    arguments.command(arguments)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        super().error(readable(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m danceopd_ext", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help="show what a LoRA file contains and whether it can be used here")
    inspect.add_argument("file", help="a file, a LoRA folder, or owner/name on the Hugging Face Hub")
    _add_family(inspect)
    inspect.set_defaults(command=_inspect)
    convert = commands.add_parser("convert", help="write a LoRA with the layer names that another program reads")
    convert.add_argument("input", help="a file, a LoRA folder, or owner/name on the Hugging Face Hub")
    convert.add_argument("output", help="the .safetensors file to write")
    convert.add_argument("--to", required=True, choices=("kohya", "diffusers", "comfyui"))
    convert.add_argument("--dtype", choices=DTYPES, help="default: as in the input")
    convert.add_argument("--rank", type=whole(RANK), help="compress every layer to at most this rank")
    _add_family(convert)
    convert.add_argument("--ignore_text_encoder", action="store_true", help="leave out the text encoder's part")
    convert.add_argument("--ignore_other_parts", action="store_true", help="leave out changes to biases and norms")
    convert.set_defaults(command=_convert)
    plan = commands.add_parser(
        "plan",
        help="say what a preset needs: memory, hours, disk, and what to change if it does not fit",
        description="Says before a run what it needs: GPU memory by part and phase, main memory, disk, downloads and "
        "hours; whether it fits into a card and, if not, the cheapest changes as lines to paste. It reads the model's "
        "configuration, no weights, and needs no GPU. Every preset key is also an argument here, as in training: "
        "--resolution 768.",
    )
    plan.add_argument("preset", help="the preset, a .toml file")
    plan.add_argument("--vram", type=float, metavar="GB", help="the card's memory; default: this machine's card, or 12")
    plan.add_argument("--card", metavar="NAME", help='the card, such as "RTX 4070"; default: by its memory')
    plan.add_argument("--all_cards", action="store_true", help="one line for each of 8, 12, 16 and 24 GB instead")
    plan.set_defaults(command=_plan, takes_keys=True)
    return parser


def _add_family(parser: argparse.ArgumentParser) -> None:
    what = "the model family of the file (a model_type), if its layer names do not show it"
    parser.add_argument("--family", help=what)


def _layouts(family: str | None) -> dict:
    """Return the layouts by name: all of them, or only that of `family`. Raises UserError if `family` is unknown."""
    from danceopd_ext.models.registry import FAMILIES, NAMES, names_of

    if family is None:
        return {name: names.reference_layout() for name, names in NAMES.items()}
    known = [*NAMES, *(name for name in FAMILIES if name not in NAMES)]
    if family not in known:
        raise UserError(f'--family "{family}" is unknown.{nearest(family, known)} Choose one of {", ".join(known)}.')
    return {family: names_of(family).reference_layout()}


def _inspect(arguments: argparse.Namespace) -> None:
    from danceopd_ext.lora.file_summary import describe
    from danceopd_ext.lora.lora_file import open_lora_file

    lines = describe(open_lora_file(arguments.file), _layouts(arguments.family))
    width = max(len(what) for what, _ in lines)
    show("\n".join(f"{what:<{width}}  {value}".rstrip() for what, value in lines))


def _plan(arguments: argparse.Namespace) -> None:
    from danceopd_ext.library_logging import silence_libraries

    silence_libraries()
    from danceopd_ext.config.command_line import split_flags
    from danceopd_ext.planning.command import plan, plan_for_cards

    if arguments.vram is not None and not 1 <= arguments.vram <= 1024:
        raise UserError(f"--vram {arguments.vram:g}: expected the card's memory in GB, from 1 to 1024.")
    if arguments.all_cards:
        show("\n".join(plan_for_cards(arguments.preset, split_flags(arguments.keys))))
        return
    show("\n".join(plan(arguments.preset, split_flags(arguments.keys), arguments.vram, arguments.card)))


def _convert(arguments: argparse.Namespace) -> None:
    import torch

    from danceopd_ext.lora.algebra import compress, compression_loss
    from danceopd_ext.lora.families import labelled
    from danceopd_ext.lora.file_summary import find_layout, main_dtype
    from danceopd_ext.lora.lora_file import open_lora_file
    from danceopd_ext.lora.read import to_lora
    from danceopd_ext.lora.write import unread, write_lora

    file = open_lora_file(arguments.input)
    if Path(arguments.output).resolve() == file.path.resolve():
        raise UserError(f"{arguments.output}: input and output are the same file. Choose another name for the output.")
    layout = find_layout(file, _layouts(arguments.family))
    lora = to_lora(
        file,
        layout,
        ignore_text_encoder=arguments.ignore_text_encoder,
        ignore_other_parts=arguments.ignore_other_parts,
    )
    if arguments.rank:
        whole, lora = lora, compress(lora, arguments.rank)
        if lost := compression_loss(whole, lora):
            show(f"--rank {arguments.rank} loses {lost:.1%} of the change; a larger rank keeps more")
    dtypes = dict(zip(DTYPES, (torch.float16, torch.bfloat16, torch.float32), strict=True))
    dtype = dtypes[arguments.dtype] if arguments.dtype else main_dtype(file)
    metadata = labelled(lora.metadata, layout, file.tensors)
    path = write_lora(arguments.output, lora, layout, arguments.to, metadata, dtype)
    for note in (*lora.notes, *unread(lora.modules, layout, arguments.to)):
        show(f"note: {note}")
    show(f"{path}: {len(lora.modules)} layers, {arguments.to} names, {str(dtype).removeprefix('torch.')}")
