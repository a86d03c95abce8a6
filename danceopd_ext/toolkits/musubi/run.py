"""A run in the user's checkout of musubi-tuner, from the preset to the saved LoRA."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from danceopd_ext.config.split import HostedPreset
from danceopd_ext.data.resolutions import parse_resolution
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.arguments import Arguments, build_arguments
from danceopd_ext.toolkits.hosted.find import Checkout, check_seams, find_toolkit, version_note
from danceopd_ext.toolkits.hosted.refuse import refuse
from danceopd_ext.toolkits.musubi.refused import RULES
from danceopd_ext.toolkits.musubi.registry import Architecture, find_architecture
from danceopd_ext.toolkits.musubi.trainer import Settings, trainer_class

#: keys of prompt-only data, which musubi's parser does not know because its datasets have their own
OURS = ("resolution", "train_batch_size", "text_encoder_cache_dir")

#: one of these must be given; the first one is what is taken where none is
ATTENTION = ("sdpa", "flash_attn", "xformers", "flash3")

#: the methods of musubi's trainers that ours overrides or calls, and the parameters that it relies on
SEAMS: dict[str, tuple[str, ...]] = {
    "train": ("args",),
    "_validate_args_and_init": ("args",),
    "handle_model_specific_args": ("args",),
    "_build_dataset": ("args",),
    "_prepare_sampling": ("args", "accelerator", "vae_dtype"),
    "on_transformer_loaded": ("args", "accelerator", "transformer"),
    "_build_optimizer_and_dataloader": ("args", "accelerator", "network", "train_dataset_group"),
    "_prepare_with_accelerator": ("args", "accelerator", "transformer", "network", "lr_scheduler"),
    "_register_hooks_and_resume": ("args", "accelerator", "network"),
    "on_train_start": ("args", "accelerator", "network", "transformer", "optimizer"),
    "process_batch": ("args", "accelerator", "transformer", "network", "batch", "latents"),
    "call_dit": (
        "args", "accelerator", "transformer", "latents", "batch", "noise", "noisy_model_input", "timesteps",
        "network_dtype",
    ),
    "extra_metadata": ("args",),
}  # fmt: skip


def train(preset: HostedPreset) -> Path:
    """Train and return the saved LoRA. Raises UserError for what is wrong with preset, checkout, files or data."""
    architecture = find_architecture(preset.model_type)
    checkout = find_toolkit(preset.toolkit, preset.danceopd.toolkit_dir)
    note = version_note(checkout)
    if note:
        print(note)
    module = import_trainer(checkout, architecture)
    theirs = getattr(module, architecture.trainer)
    check_seams(theirs, SEAMS, checkout)
    arguments = build_arguments(parser_of(module, architecture), preset, OURS)
    refuse(arguments, RULES)
    args = arguments.namespace
    complete(args, architecture)
    check_files(args, preset)
    trainer_class(theirs)(settings_of(preset, arguments, architecture)).train(args)
    return Path(args.output_dir) / f"{args.output_name}.safetensors"


def import_trainer(checkout: Checkout, architecture: Architecture) -> ModuleType:
    """musubi's training script of the architecture, from the user's checkout before any other."""
    package = checkout.folder / "src"
    for folder in (package / "musubi_tuner", package):  # network modules are named without the package
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(architecture.module)
    except ImportError as error:
        raise UserError(
            f"{checkout.folder}: {architecture.module} cannot be imported ({error}). Run this in the Python "
            "environment in which musubi-tuner trains, with this package installed there as well."
        ) from error


def parser_of(module: ModuleType, architecture: Architecture) -> argparse.ArgumentParser:
    """The parser of musubi's own training script."""
    return getattr(module, architecture.parser)(module.setup_parser_common())


def complete(args: argparse.Namespace, architecture: Architecture) -> None:
    """What musubi leaves to its user to say and has a single right answer."""
    architecture.adapter.complete(args)
    if not any(getattr(args, name) for name in ATTENTION):
        setattr(args, ATTENTION[0], True)
    args.network_module = args.network_module or architecture.network_module


def settings_of(preset: HostedPreset, arguments: Arguments, architecture: Architecture) -> Settings:
    """What our keys among musubi's say."""
    args, values = arguments.namespace, ours(preset)
    batch_size = values.get("train_batch_size", 1)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"{preset.path}: train_batch_size = {batch_size!r}: write a whole number of at least 1.")
    return Settings(
        options=preset.danceopd,
        architecture=architecture,
        resolutions=parse_resolution(values.get("resolution", 1024), f"{preset.path}: resolution"),
        batch_size=batch_size,
        cache=Path(values.get("text_encoder_cache_dir") or Path(args.output_dir) / "cache"),
        flow_shift=args.discrete_flow_shift if "discrete_flow_shift" in arguments.given else None,
    )


def ours(preset: HostedPreset) -> dict[str, Any]:
    """The values of OURS; a flag wins over the file."""
    values = {name: preset.values[name] for name in OURS if name in preset.values}
    for name in OURS:
        if name in preset.flags:
            text = " ".join(preset.flags[name])
            values[name] = int(text) if text.isdecimal() else text
    return values


def check_files(args: argparse.Namespace, preset: HostedPreset) -> None:
    """Raise UserError where something that every run needs is not given, or a file is not there."""
    for name, what in (("dit", "the model file"), ("output_dir", "a folder"), ("output_name", "a name of the LoRA")):
        if not getattr(args, name):
            raise UserError(f"{preset.path}: {name} is missing: {what}.")
    if args.sample_prompts and not args.vae:
        raise UserError(f"{preset.path}: sample_prompts needs the vae to draw pictures: name its file, or remove it.")
    for name in ("dit", "vae", "network_weights", "sample_prompts", "dim_from_weights"):
        path = getattr(args, name, None)
        if path and not Path(path).exists():
            raise UserError(f'{preset.path}: {name} = "{path}": there is no such file.')
    if not args.dataset_config and not preset.danceopd.prompts:
        raise UserError(
            f"{preset.path}: there is no data: give a dataset_config (musubi-tuner's own form), or prompt files in "
            "[danceopd.prompts]."
        )
