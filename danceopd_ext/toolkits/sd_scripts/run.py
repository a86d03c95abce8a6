"""Runs a preset with `toolkit = "sd-scripts"` in the user's checkout, up to the saved LoRA."""

from __future__ import annotations

import importlib
import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from danceopd_ext.config.hosted_preset import HostedPreset
from danceopd_ext.data.items import Size
from danceopd_ext.data.resolutions import parse_resolution
from danceopd_ext.data.user_paths import find_path
from danceopd_ext.errors import UserError
from danceopd_ext.files import check_writable
from danceopd_ext.foreign.files import check_place
from danceopd_ext.foreign.toml import read_toml
from danceopd_ext.toolkits.hosted.architecture import Architecture, find_architecture
from danceopd_ext.toolkits.hosted.argument_rules import refuse
from danceopd_ext.toolkits.hosted.arguments import Arguments, build_arguments
from danceopd_ext.toolkits.hosted.checkout import Checkout, find_toolkit, tested_versions, version_note
from danceopd_ext.toolkits.hosted.console import tell
from danceopd_ext.toolkits.hosted.import_script import import_script
from danceopd_ext.toolkits.hosted.input_documents import check_sample_prompts, read_document
from danceopd_ext.toolkits.hosted.number_limits import check_dataset_numbers, check_numbers
from danceopd_ext.toolkits.hosted.preflight import (
    check_lora_files,
    check_optimizer,
    check_output,
    check_paths,
    check_precision,
)
from danceopd_ext.toolkits.hosted.run_trainer import run_alone, saved_lora
from danceopd_ext.toolkits.hosted.seams import check_seams, trainer_of, version_error
from danceopd_ext.toolkits.hosted.trackers import check_trackers
from danceopd_ext.toolkits.hosted.trusted_checkout import require_trusted
from danceopd_ext.toolkits.sd_scripts.argument_rules import RULES
from danceopd_ext.toolkits.sd_scripts.defaults import completed
from danceopd_ext.toolkits.sd_scripts.model_files import check_files
from danceopd_ext.toolkits.sd_scripts.network_args import check_network_args
from danceopd_ext.toolkits.sd_scripts.seams import METHODS, seams_of
from danceopd_ext.toolkits.sd_scripts.toolkit_errors import as_user_error
from danceopd_ext.toolkits.sd_scripts.trainer import trainer_class

#: arguments that name an existing file or folder
FILES = ("dataset_config", "train_data_dir", "in_json", "sample_prompts", "network_weights", "log_tracker_config")
#: keys of a dataset_config that do
DATA_PATHS = ("image_dir", "metadata_file", "conditioning_data_dir")


def train(preset: HostedPreset) -> Path:
    """Train and return the saved LoRA. Raises UserError for wrong input, if possible before anything is loaded."""
    architecture = find_architecture(preset)
    checkout = find_toolkit(preset.toolkit, preset.danceopd.toolkit_dir)
    tell(require_trusted(checkout, preset))
    check_script(checkout, architecture)
    script = import_script(checkout, [checkout.folder], architecture.script)
    base = trainer_of(script, architecture.trainer, checkout)
    check_seams(base, seams_of(architecture), checkout)
    as_given = preset
    preset, sizes = take_sizes(preset)
    arguments = build_arguments(script.setup_parser(), preset)
    refuse(arguments, (*RULES, *architecture.refused))
    args = trainer_arguments(arguments, architecture)
    asked_for_cache = "cache_text_encoder_outputs" in arguments.given
    trainer = trainer_class(base)(preset.danceopd, architecture, asked_for_cache)
    hand_over_prompts(preset, architecture, args, sizes)
    try_out(args, preset, architecture)
    notes = check_trackers(args)
    try:
        run_alone(trainer, args, as_given, [version_note(checkout), *notes])
    except Exception as error:
        started = trainer.distiller is not None and trainer.distiller.progress.step > 0
        known = version_error(error, checkout, METHODS)
        if known is None and not started:
            known = as_user_error(error, checkout.folder, preset.path, args.dataset_config)
        if known is None:
            raise
        raise known from error
    if trainer.distiller is None:
        raise UserError(
            f"{args.dataset_config or args.train_data_dir}: sd-scripts found no data there. Its own messages above "
            "say why."
        )
    return saved_lora(trainer, Path(args.output_dir) / f"{args.output_name}.{args.save_model_as}", checkout.toolkit)


def check_script(checkout: Checkout, architecture: Architecture) -> None:
    """Raise UserError if this version of the toolkit is too old for the architecture."""
    if not (checkout.folder / f"{architecture.script}.py").is_file():
        raise UserError(
            f"{checkout.toolkit} at {checkout.folder} (version {checkout.version}) cannot train {architecture.title}: "
            f"it has no {architecture.script}.py. Update it to a tested version: {tested_versions(checkout.toolkit)}."
        )


def take_sizes(preset: HostedPreset) -> tuple[HostedPreset, tuple[Size, ...]]:
    """Return the preset with one size as `resolution`, as the toolkit reads it, and the sizes of prompts."""
    given = preset.flags.get("resolution") or preset.values.get("resolution")
    if given is None:
        return preset, ()
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    sizes = parse_resolution(given, f"{preset.path}: resolution")
    if len(sizes) > 1 and not preset.danceopd.prompts:
        raise UserError(
            f"{preset.path}: resolution: several sizes only work with [danceopd.prompts]. A dataset has buckets."
        )
    width, height = sizes[0]
    flags = {name: words for name, words in preset.flags.items() if name != "resolution"}
    return replace(preset, values={**preset.values, "resolution": f"{width},{height}"}, flags=flags), sizes


def trainer_arguments(arguments: Arguments, architecture: Architecture) -> Namespace:
    """Return the complete arguments of the toolkit's trainer, with files found. Raises UserError."""
    if "dataset_class" in arguments.given:
        raise UserError(f"{arguments.path}: dataset_class is not supported here. Use dataset_config, or prompt files.")
    for name, value in architecture.fixed.items():
        if name in arguments.given and (given := getattr(arguments.namespace, name)) != value:
            raise UserError(
                f"{arguments.path}: {name} = {given}: {architecture.title} always runs with {value}. Remove it."
            )
    check_numbers(arguments.namespace, arguments.given, arguments.defaults, arguments.path)
    args = Namespace(**completed(vars(arguments.namespace), arguments.given, architecture))
    for name in architecture.required:
        if not getattr(args, name):
            raise UserError(f"{arguments.path}: {name} is missing: {architecture.title} needs it.")
    if args.network_module != architecture.network_module:
        raise UserError(
            f'{arguments.path}: network_module = "{args.network_module}": {architecture.title} needs '
            f'"{architecture.network_module}", whose LoRA can be turned off exactly. Remove network_module.'
        )
    for name in (*FILES, *architecture.files):
        if getattr(args, name):
            setattr(args, name, str(_existing(getattr(args, name), name, arguments.path)))
    if args.base_weights:
        args.base_weights = [str(_existing(place, "base_weights", arguments.path)) for place in args.base_weights]
    check_documents(args, arguments.path)
    return args


def check_documents(args: Namespace, preset: Path) -> None:
    """Raise UserError for a file of settings, prompts or captions that cannot be read or has another form."""
    if args.dataset_config:
        read_document(Path(args.dataset_config), "dataset configuration")
    if args.in_json:
        read_document(Path(args.in_json), "metadata file")
    if args.log_tracker_config:
        read_toml(Path(args.log_tracker_config), "configuration of trackers")
    if args.sample_prompts and Path(args.sample_prompts).suffix not in (".txt", ".toml", ".json"):
        raise UserError(f'{preset}: sample_prompts = "{args.sample_prompts}": name a .txt, .toml or .json file.')
    check_sample_prompts(args)
    if args.dim_from_weights and not args.network_weights:
        raise UserError(f"{preset}: dim_from_weights = true needs network_weights. Name a LoRA, or remove it.")


def try_out(args: Namespace, preset: HostedPreset, architecture: Architecture) -> None:
    """Raise UserError for errors that the toolkit would only notice after it has loaded everything."""
    check_output(args, preset.path, preset.danceopd.overwrite)
    if args.tokenizer_cache_dir:
        check_writable(Path(args.tokenizer_cache_dir).absolute(), f"{preset.path}: tokenizer_cache_dir")
    check_precision(args, preset.path)
    check_network_args(args, preset.path)
    if args.dataset_config:
        document = read_document(Path(args.dataset_config), "dataset configuration")
        check_dataset_numbers(args.dataset_config, document)
        for path in check_paths(args.dataset_config, document, DATA_PATHS):
            if path.suffix == ".json":
                read_document(path, "metadata file")
    util = importlib.import_module("library.train_util")
    check_lora_files(args, preset.path)
    check_optimizer(
        args,
        preset.path,
        util.get_optimizer,
        lambda args, made: util.get_scheduler_fix(args, made, 1),
        preset.allow_local_code,
    )
    check_files(args, preset.danceopd, architecture, preset.path)


def _existing(value: str, name: str, preset: Path) -> Path:
    found = find_path(value, preset.parent)
    if not os.path.exists(found):
        raise UserError(
            f'{preset}: {name} = "{value}": there is no such file in {Path.cwd()} or in the preset\'s folder.'
        )
    check_place(found, f"{preset}: {name}")
    return found


def hand_over_prompts(preset: HostedPreset, architecture: Architecture, args: Namespace, sizes: Sequence[Size]) -> None:
    """Pass [danceopd.prompts] to the dataset that the toolkit makes later. Raises UserError without any data."""
    if not preset.danceopd.prompts:
        if not (args.dataset_config or args.train_data_dir):
            raise UserError(f"{preset.path}: no data: name prompt files in [danceopd.prompts], or a dataset_config.")
        return
    prompts = importlib.import_module("danceopd_ext.toolkits.sd_scripts.prompt_dataset")  # it needs the toolkit
    prompts.hand_over(preset.danceopd, architecture, args, sizes)
    args.dataset_class = prompts.CALLED
