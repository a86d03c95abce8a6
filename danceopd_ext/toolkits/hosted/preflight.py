"""Checks before a run what a toolkit would only notice after it has loaded everything."""

from __future__ import annotations

import copy
import logging
import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import torch

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.errors import UserError
from danceopd_ext.files import check_writable
from danceopd_ext.lora.lora_file import open_lora_file
from danceopd_ext.models.layer_names import LayerNames
from danceopd_ext.toolkits.earlier_results import refuse_overwriting, refuse_traps
from danceopd_ext.toolkits.hosted.class_names import check_class_names
from danceopd_ext.toolkits.hosted.teacher_files import Linears, host_layout, network_tensors, read_teachers
from danceopd_ext.toolkits.lock import refuse_second_run
from danceopd_ext.toolkits.preset_record import check_record

#: what optimizers and their packages raise for wrong arguments
REFUSALS = (TypeError, ValueError, AttributeError, ImportError, AssertionError, RuntimeError, KeyError, SyntaxError)


def check_output(args: Namespace, preset: Path, overwrite: bool = False) -> None:
    """Raise UserError if the run could not save, or if it would replace an earlier result by accident.

    Toolkits notice the first when they save, and the second not at all.
    """
    if not args.output_dir:
        raise UserError(f"{preset}: output_dir is empty. Name the folder for the LoRA.")
    check_writable(Path(args.output_dir).absolute(), f"{preset}: output_dir")
    if getattr(args, "logging_dir", None):
        check_writable(Path(args.logging_dir).absolute(), f"{preset}: logging_dir")
    name = args.output_name
    if not name or name in (".", "..") or len(PurePath(name).parts) != 1 or any(mark in name for mark in '/\\:*?"<>|'):
        raise UserError(f"{preset}: output_name = {name!r}: write a file name without folders and without a suffix.")
    refuse_traps(Path(args.output_dir), name, ("sample", "cache"))
    refuse_second_run(Path(args.output_dir), name)
    refuse_overwriting(Path(args.output_dir), name, overwrite, args.resume)
    check_record(Path(args.output_dir), name)


def check_precision(args: Namespace, preset: Path) -> None:
    """Raise UserError for fp16 without an accelerator: its scaling of gradients only works on one."""
    if args.mixed_precision == "fp16" and not any(_available(name) for name in ("cuda", "xpu", "mps")):
        raise UserError(f'{preset}: mixed_precision = "fp16" needs a GPU. Without a GPU, write "no" or "bf16".')


def _available(name: str) -> bool:
    backend = getattr(torch, name, None) if name != "mps" else torch.backends.mps
    return backend is not None and backend.is_available()


def check_optimizer(
    args: Namespace,
    preset: Path,
    make_optimizer: Callable[[Namespace, list], tuple],
    make_schedule: Callable[[Namespace, Any], Any],
    local: bool = False,
) -> None:
    """Make the toolkit's own optimizer and schedule for one small weight. Raises UserError if that fails.

    The two functions are the toolkit's; they get copies of the arguments, which some of them change. `local`: see
    installed.class_at.
    """
    check_class_names(args, preset, local)
    tried = copy.deepcopy(args)
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    with _silence():
        optimizer = _tried(
            f"{preset}: optimizer_type = {_shown(args.optimizer_type)}{_more('optimizer_args', args)}",
            lambda: make_optimizer(tried, [{"params": [weight], "lr": args.learning_rate}])[2],
        )
        _tried(
            f'{preset}: lr_scheduler = "{args.lr_scheduler}"{_more("lr_scheduler_type", args)}'
            f"{_more('lr_scheduler_args', args)}{_more('lr_warmup_steps', args)}",
            lambda: make_schedule(tried, optimizer),
        )


def check_lora_files(args: Namespace, preset: Path) -> None:
    """Raise UserError for a LoRA that the toolkit would unpickle, which can run code; its suffix decides."""
    for name in ("network_weights", "base_weights"):
        given = getattr(args, name, None) or []
        for place in [given] if isinstance(given, str) else given:
            if PurePath(place).suffix != ".safetensors":
                raise UserError(
                    f'{preset}: {name} = "{place}": the toolkit unpickles every file except .safetensors, and a '
                    "pickle can run code. Name a file that ends in .safetensors (python -m danceopd_ext convert "
                    "makes one)."
                )


def check_teachers(options: DanceOPDSection, names: LayerNames | None, title: str, linears: Linears | None) -> None:
    """Read every teacher's LoRA as the run will. Raises UserError that names teacher and file.

    linears: the layers of the model's file; None if they are unknown. Then a LoRA is compared with the layers of the
    published model; if these are unknown, too, it is only opened.
    """
    if linears is None and names is None:
        for name, teacher in options.teachers.items():
            for place in teacher.loras:
                try:
                    open_lora_file(place)
                except UserError as error:
                    raise UserError(f"[danceopd.teachers.{name}] {error}") from None
        return
    if linears is None:
        read_teachers(options, names.reference_layout(), say=_later)
        return
    layout = host_layout(names, title, linears)
    for name, lora in read_teachers(options, layout, say=_later).items():
        network_tensors(name, lora, layout, linears)


def _later(note: str) -> None:
    """Drop the note: the files are read again when the teachers are attached, and the notes are printed then."""


def _tried(what: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except REFUSALS as error:
        reason = str(error).split(" / ")[0].strip().splitlines() or [type(error).__name__]
        raise UserError(f"{what}: the toolkit cannot create it: {reason[0].rstrip('.')}.{_remedy(error)}") from error


def _remedy(error: Exception) -> str:
    text = str(error).lower()
    if isinstance(error, ImportError) or "installed" in text:
        return ' Install the package, or write optimizer_type = "AdamW".'
    return ""


def _more(name: str, args: Namespace) -> str:
    value = getattr(args, name, None)
    return f", {name} = {_shown(value)}" if value else ""


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


@contextmanager
def _silence() -> Iterator[None]:
    """Hide the toolkit's own lines about the optimizer: it prints them again when it makes the real one."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def check_paths(where: str, document: Mapping[str, Any], names: tuple[str, ...]) -> list[Path]:
    """Return the paths that a dataset configuration names. Raises UserError, naming key and path, if one is missing.

    names: keys whose values are paths, in any of its tables.
    """
    found = []
    for key, value in document.items():
        tables = [value] if isinstance(value, Mapping) else value if isinstance(value, list) else []
        for table in tables:
            if isinstance(table, Mapping):
                found += check_paths(where, table, names)
        if key in names and isinstance(value, str) and value:
            if not os.path.exists(value):
                raise UserError(
                    f'{where}: {key} = "{value}": there is no such file or folder (relative paths start in '
                    f"{Path.cwd()})."
                )
            found.append(Path(value))
    return found
