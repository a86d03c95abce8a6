"""Checks what the machine, its packages and the data allow before anything is loaded or written."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator

from danceopd_ext.config import Preset
from danceopd_ext.config.schema import DanceOPDSection, OptimizerSection
from danceopd_ext.data.pictures import PictureFile, inspect_picture
from danceopd_ext.data.plan import Plan
from danceopd_ext.engine.compiling import check_compiler
from danceopd_ext.engine.model import Model
from danceopd_ext.errors import UserError
from danceopd_ext.files import check_writable
from danceopd_ext.machine import why_no_gpu
from danceopd_ext.method import METHODS
from danceopd_ext.toolkits.earlier_results import refuse_overwriting, refuse_traps
from danceopd_ext.toolkits.lock import refuse_second_run
from danceopd_ext.toolkits.native.optimizers import make_optimizer, make_schedule
from danceopd_ext.toolkits.preset_record import check_record

#: number of parameters above which training on a CPU is surely not intended
LARGE = 0.5e9


def check_machine(preset: Preset, accelerator: Accelerator) -> None:
    """Raise UserError for a precision, an optimizer or a compilation that does not work on this machine."""
    if preset.training.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError(f'mixed_precision = "fp16" needs a GPU; without one use "no" or "bf16". {why_no_gpu()}'.strip())
    if preset.training.torch_compile:
        check_compiler(accelerator.device)
    check_optimizer(preset.optimizer, accelerator.device, preset.training.max_train_steps, preset.allow_local_code)


def slow_without_gpu(model: Model) -> list[str]:
    """A note on a large model that is about to be trained on a CPU, with the reason why there is no GPU if known."""
    parameters = sum(outputs * inputs for outputs, inputs in model.layout.shapes.values())
    if model.device.type != "cpu" or parameters < LARGE:
        return []
    size = f"{model.family.title} has {parameters / 1e9:.1f} billion parameters"
    told = f"torch finds no GPU: {size}, and a training step takes minutes to hours on a CPU. {why_no_gpu()}"
    return [told.rstrip(" .")]


def check_optimizer(section: OptimizerSection, device: torch.device, steps: int, local: bool = False) -> None:
    """Take one step with the optimizer and its schedule. Raises UserError if their arguments do not fit.

    local: see optimizers.optimizer_class.
    """
    parameter = torch.nn.Parameter(torch.zeros(2, 2, device=device))
    optimizer = make_optimizer(section, [parameter], device, local)
    schedule = make_schedule(section, optimizer, steps)
    parameter.grad = torch.ones_like(parameter)
    try:
        if hasattr(optimizer, "train"):
            optimizer.train()
        optimizer.step()
    except Exception as error:  # an optimizer may raise anything
        raise UserError(
            f"optimizer_type = {section.optimizer_type} with optimizer_args = {section.optimizer_args} "
            f"cannot take a step: {error}."
        ) from error
    if not bool(parameter.isfinite().all()):
        raise UserError(
            f"learning_rate = {section.learning_rate:g} and optimizer_args = {section.optimizer_args} give NaN or "
            f"infinite weights in the first step of optimizer_type = {section.optimizer_type}. Use smaller values."
        )
    try:
        schedule.step()
    except TypeError as error:
        raise UserError(f'lr_scheduler = "{section.lr_scheduler}" cannot be used here: {error}.') from error


def check_output(preset: Preset) -> list[str]:
    """Raise UserError if a folder cannot be written, or if an earlier result would be replaced.

    Returns notes on what is replaced.
    """
    saving, sampling = preset.saving, preset.sampling
    folder, name = Path(saving.output_dir), saving.output_name
    refuse_traps(folder, name, _fills(preset))
    check_writable(folder)
    check_writable(Path(preset.dataset.text_encoder_cache_dir or folder / "cache"), "text_encoder_cache_dir")
    if sampling.sample_prompts and (sampling.sample_every_n_steps or sampling.sample_at_first):
        check_writable(folder / "sample", "the pictures' folder")
    if preset.logging.log_with in ("tensorboard", "all"):
        check_writable(tensorboard_folder(preset) / preset.logging.log_tracker_name, "logging_dir")
    log = folder / f"{name}.log.jsonl"
    for path in (log, folder / f"{name}.safetensors"):
        if path.is_dir():
            raise UserError(
                f"{path} is a folder, but the run writes a file with this name. Choose another output_name."
            )
    check_record(folder, name)
    refuse_second_run(folder, name)
    earlier = refuse_overwriting(folder, name, preset.danceopd.overwrite, saving.resume)
    if earlier:
        count = f"{len(earlier)} in all"
        return [f"overwrite: an earlier run's LoRAs and states ({count}) are replaced when this run saves"]
    return []


def _fills(preset: Preset) -> list[str]:
    """The folders in output_dir that the run fills."""
    sampling, trackers = preset.sampling, preset.logging.log_with
    used = {
        "cache": not preset.dataset.text_encoder_cache_dir,
        "sample": bool(sampling.sample_prompts and (sampling.sample_every_n_steps or sampling.sample_at_first)),
        "logs": trackers in ("tensorboard", "all") and not preset.logging.logging_dir,
        "wandb": trackers in ("wandb", "all"),
    }
    return [name for name, is_used in used.items() if is_used]


def tensorboard_folder(preset: Preset) -> Path:
    """Return the folder of this run's TensorBoard files."""
    return Path(preset.logging.logging_dir or Path(preset.saving.output_dir) / "logs") / preset.saving.output_name


def find_pictures(method: str, plan: Plan, notes: list[str]) -> dict[Path, PictureFile]:
    """Return the picture files that the method starts from; empty if it uses none.

    Raises UserError if a picture is missing or damaged, or if an item has no picture and the method needs one.
    """
    use, items = METHODS[method].clean_latents, list(plan.items())
    with_picture = [item for item in items if item.picture]
    if use == "unused":
        if with_picture:
            notes.append(
                f'the pictures of {len(with_picture)} items are not used: method = "{method}" needs no pictures'
            )
        return {}
    bare = next((item for item in items if not item.picture), None)
    if use == "needed" and bare:
        raise UserError(
            f'{bare.where or "the data"}: method = "{method}" learns from pictures, and this item has none (as '
            f"{len(items) - len(with_picture)} of {len(items)}). Give each route an image_dir with images in the "
            "dataset file, or a column target in a .csv or .jsonl prompt file, or the weight 0 in [danceopd.routes]."
        )
    if bare:
        notes.append(
            f"{len(items) - len(with_picture)} of {len(items)} items have no picture: there method = "
            f'"{method}" starts from random latents'
        )
    return {path: inspect_picture(path) for path in dict.fromkeys(item.picture.path for item in with_picture)}


def unused_keys(options: DanceOPDSection) -> list[str]:
    """Return the keys of [danceopd] that the preset changes and the method does not use."""
    unused = {
        "joint": ("rollout_solver", "query", "num_queries", "early_stop", "rollout_batch_size"),
        "offpolicy": ("rollout_solver", "early_stop", "rollout_batch_size"),
        "diffusionopd": ("query", "num_queries"),
        "flowopd": ("rollout_solver", "query", "num_queries", "early_stop"),
    }.get(options.method, ())
    return [key for key in unused if getattr(options, key) != type(options).__dataclass_fields__[key].default]


def left_out(options: DanceOPDSection) -> list[str]:
    """Return a note on what may be forgotten if several teachers are fused and none is the base."""
    if len(options.teachers) < 2 or any(not (one.lora or one.checkpoint) for one in options.teachers.values()):
        return []
    return [
        "no teacher is the base, so the student may forget what no route trains. To keep it, add "
        "[danceopd.teachers.base] with "
        "general prompts"
    ]


def left_out_of_start(options: DanceOPDSection) -> list[str]:
    """Return a note on each teacher that is not part of the merge that the student starts from."""
    if options.student_init == "fresh":
        return []
    return [
        f'student_init = "{options.student_init}": teacher {name} is a whole checkpoint and not in the merge. Set its '
        "extract_rank to have it there"
        for name, one in options.teachers.items()
        if one.checkpoint and not one.extract_rank
    ]
