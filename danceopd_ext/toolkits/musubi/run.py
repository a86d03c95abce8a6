"""Runs a preset in the user's checkout of musubi-tuner, up to the saved LoRA."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from danceopd_ext.config.hosted_preset import HostedPreset
from danceopd_ext.data.resolutions import parse_resolution
from danceopd_ext.data.user_paths import find_path
from danceopd_ext.errors import UserError
from danceopd_ext.foreign.files import check_place
from danceopd_ext.ranges import SAMPLES, SHOWN_DIGITS, written
from danceopd_ext.toolkits.hosted.architecture import Architecture, find_architecture
from danceopd_ext.toolkits.hosted.argument_rules import refuse
from danceopd_ext.toolkits.hosted.arguments import Arguments, build_arguments
from danceopd_ext.toolkits.hosted.checkout import Checkout, find_toolkit, version_note
from danceopd_ext.toolkits.hosted.console import tell
from danceopd_ext.toolkits.hosted.import_script import import_script
from danceopd_ext.toolkits.hosted.input_documents import check_sample_prompts
from danceopd_ext.toolkits.hosted.number_limits import check_numbers
from danceopd_ext.toolkits.hosted.preflight import (
    check_lora_files,
    check_optimizer,
    check_output,
    check_precision,
    check_teachers,
)
from danceopd_ext.toolkits.hosted.run_trainer import run_alone, saved_lora
from danceopd_ext.toolkits.hosted.seams import check_seams, trainer_of, version_error
from danceopd_ext.toolkits.hosted.trackers import check_trackers
from danceopd_ext.toolkits.hosted.trusted_checkout import require_trusted
from danceopd_ext.toolkits.musubi.argument_rules import RULES
from danceopd_ext.toolkits.musubi.defaults import complete
from danceopd_ext.toolkits.musubi.seams import SEAMS
from danceopd_ext.toolkits.musubi.settings import Settings
from danceopd_ext.toolkits.musubi.trainer import trainer_class

#: arguments that name an existing file or folder; the architecture lists those of text encoders
FILES = ("dit", "vae", "dataset_config", "sample_prompts", "network_weights")

#: keys of prompt-only data; musubi's parser does not know them because its datasets have their own
OURS = ("resolution", "train_batch_size", "text_encoder_cache_dir")


def train(preset: HostedPreset) -> Path:
    """Train and return the saved LoRA. Raises UserError if preset, checkout, files or data are wrong."""
    architecture = find_architecture(preset)
    checkout = find_toolkit(preset.toolkit, preset.danceopd.toolkit_dir)
    tell(require_trusted(checkout, preset))
    module = import_trainer(checkout, architecture)
    theirs = trainer_of(module, architecture.trainer, checkout)
    check_seams(theirs, SEAMS, checkout)
    arguments = build_arguments(parser_of(module, architecture), preset, OURS)
    refuse(arguments, RULES)
    args = arguments.namespace
    check_numbers(args, arguments.given, arguments.defaults, preset.path)
    complete(args, architecture, arguments.given)
    find_files(args, architecture, preset)
    settings = settings_of(preset, arguments, architecture)
    check_output(args, preset.path, preset.danceopd.overwrite)
    check_precision(args, preset.path)
    trainer = trainer_class(theirs)(settings)
    check_lora_files(args, preset.path)
    check_optimizer(
        args,
        preset.path,
        trainer.get_optimizer,
        lambda args, made: trainer.get_lr_scheduler(args, made, 1),
        preset.allow_local_code,
    )
    notes = [*check_trackers(args), *guidance_note(args, architecture)]
    try:
        run_alone(trainer, args, preset, [version_note(checkout), *notes])
    except Exception as error:
        if known := version_error(error, checkout, SEAMS.methods):
            raise known from error
        raise
    return saved_lora(trainer, Path(args.output_dir) / f"{args.output_name}.safetensors", checkout.toolkit)


def import_trainer(checkout: Checkout, architecture: Architecture) -> ModuleType:
    """Import musubi's training script of the architecture. Raises UserError."""
    sources = checkout.folder / "src"  # and the package itself: network modules are named without its name
    return import_script(checkout, [sources, sources / "musubi_tuner"], architecture.script)


def parser_of(module: ModuleType, architecture: Architecture) -> argparse.ArgumentParser:
    """Return the parser of musubi's own training script."""
    return getattr(module, architecture.parser)(module.setup_parser_common())


def settings_of(preset: HostedPreset, arguments: Arguments, architecture: Architecture) -> Settings:
    """Return the settings from our own keys of the preset."""
    args, values = arguments.namespace, ours(preset)
    batch_size = values.get("train_batch_size", 1)
    if not isinstance(batch_size, int) or SAMPLES.wrong(batch_size):
        what = f"write a whole number {SAMPLES.words()}"
        raise UserError(f"{preset.path}: train_batch_size = {written(batch_size)}: {what}.")
    return Settings(
        options=preset.danceopd,
        architecture=architecture,
        resolutions=parse_resolution(values.get("resolution", 1024), f"{preset.path}: resolution"),
        batch_size=batch_size,
        cache=Path(values.get("text_encoder_cache_dir") or Path(args.output_dir) / "cache"),
        flow_shift=args.discrete_flow_shift if "discrete_flow_shift" in arguments.given else None,
    )


def ours(preset: HostedPreset) -> dict[str, Any]:
    """Return the values of OURS; a flag wins over the file."""
    values = {name: preset.values[name] for name in OURS if name in preset.values}
    for name in OURS:
        if name in preset.flags:
            text = " ".join(preset.flags[name])
            values[name] = int(text) if text.isdecimal() and len(text) <= SHOWN_DIGITS else text
    return values


def guidance_note(args: argparse.Namespace, architecture: Architecture) -> list[str]:
    """Return a line on the guidance of a model with a guidance embedding; empty for others."""
    if architecture.adapter.usual_guidance(args) is None:
        return []
    return [f"guidance embedding: {args.guidance_scale:g} (guidance_scale), for the student and all teachers"]


def find_files(args: argparse.Namespace, architecture: Architecture, preset: HostedPreset) -> None:
    """Look up every file in the current directory, then in the preset's folder, before anything is loaded.

    Raises UserError if a given or required file is missing.
    """
    if os.path.exists(args.output_dir) and not os.path.isdir(args.output_dir):
        raise UserError(f'{preset.path}: output_dir = "{args.output_dir}" is a file. Name a folder.')
    if not args.dit:
        raise UserError(f"{preset.path}: dit is missing. Name the model's file.")
    if not args.dataset_config and not preset.danceopd.prompts:
        raise UserError(
            f"{preset.path}: no data: name prompt files in [danceopd.prompts], or a dataset_config in "
            "musubi-tuner's format."
        )
    if args.sample_prompts and not args.vae:
        raise UserError(f"{preset.path}: vae is missing: sample_prompts needs it to draw. Name its file.")
    for name in (*FILES, *architecture.adapter.text_encoder_arguments):
        value = getattr(args, name)
        if value:
            found = find_path(value, preset.path.parent)
            if not os.path.exists(found):  # Path.exists raises for a name that is too long
                where = f"in {Path.cwd()} or in the preset's folder"
                raise UserError(f'{preset.path}: {name} = "{value}": there is no such file {where}.')
            check_place(found, f"{preset.path}: {name}")
            setattr(args, name, str(found))
    check_sample_prompts(args)
    if args.resume:
        args.resume = str(find_path(args.resume, preset.path.parent))
    # compared with the layers of the published model, because loading the model takes minutes
    check_teachers(preset.danceopd, architecture.names, architecture.title, None)
