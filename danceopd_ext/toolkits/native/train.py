"""Runs the native training from start to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from tqdm import tqdm

from danceopd_ext.config import Preset
from danceopd_ext.config.as_used import native_preset
from danceopd_ext.engine.devices import has_accelerator
from danceopd_ext.errors import TrainingError, UserError, printable
from danceopd_ext.lora.metadata import stem
from danceopd_ext.toolkits.earlier_results import sole_writer
from danceopd_ext.toolkits.native.build import build_fields
from danceopd_ext.toolkits.native.checks import tensorboard_folder
from danceopd_ext.toolkits.native.encoding import (
    encode_pictures,
    encode_prompts,
    encode_source_images,
    open_caches,
    step_data,
)
from danceopd_ext.toolkits.native.loop import Run
from danceopd_ext.toolkits.native.merging import merge_teachers
from danceopd_ext.toolkits.native.planned import advice, plan_lines
from danceopd_ext.toolkits.native.prepare import prepare
from danceopd_ext.toolkits.native.rates import used
from danceopd_ext.toolkits.native.run_plan import RunPlan
from danceopd_ext.toolkits.native.trackers import TRACKERS, start_trackers
from danceopd_ext.toolkits.preset_record import write_record

DOES_NOT_FIT = "out of GPU memory: the model and its teachers do not fit. Nothing has been learnt yet."
SMALLER = (
    'Set quantize = "int8" or blocks_to_swap, set extract_rank for teachers with a checkpoint, or use a smaller model, '
    "and close other programs that use the GPU."
)


def train(preset: Preset) -> Path:
    """Train one student LoRA from the preset's teachers, or merge them, and return the path of the final file.

    Raises UserError for wrong input (before anything is written), TrainingError if the run has to stop, and Stopped if
    it was asked to.
    """
    accelerator = make_accelerator(preset)
    if preset.danceopd.merges:
        return merge_teachers(preset, accelerator)
    plan, saving = prepare(preset, accelerator), preset.saving
    with sole_writer(Path(saving.output_dir), saving.output_name, preset.danceopd.overwrite, saving.resume) as more:
        return train_planned(replace(plan, notes=[*plan.notes, *more]), accelerator)


def train_planned(plan: RunPlan, accelerator: Accelerator) -> Path:
    """Do the part of `train` that writes."""
    tell(plan, accelerator)

    def say(line: str) -> None:
        if accelerator.is_main_process:
            tqdm.write(printable(line, keep="\n"))

    preset, output_dir = plan.preset, Path(plan.preset.saving.output_dir)
    encodings = open_caches(plan, preset.dataset.text_encoder_cache_dir or output_dir / "cache")
    trackers = start_trackers(preset, accelerator, plan.resume.trackers if plan.resume else {}, plan.offline)
    fewer = 'set text_encoder_batch_size = 1, mixed_precision = "bf16" and quantize_text_encoders = "int8"'
    with encoding("prompts", fewer):
        encode_prompts(plan, encodings, accelerator, say)
    with encoding("source images", "use smaller ones or a smaller resolution"):
        encode_source_images(plan, encodings, accelerator, say)
    with encoding("pictures", "use a smaller resolution"):
        encode_pictures(plan, encodings, accelerator, say)
    if accelerator.is_main_process:
        write_record(output_dir, preset.saving.output_name, native_preset(preset), say)
    data = step_data(plan, encodings, accelerator)
    with out_of_memory(TrainingError, lambda: f"{DOES_NOT_FIT} {advice(plan, SMALLER)}"):
        run = Run(plan, accelerator, build_fields(plan, accelerator, say), data, trackers)
    return run.go()


@contextmanager
def out_of_memory(kind: type[Exception], message: Callable[[], str]) -> Iterator[None]:
    """Raise `kind` with the message if the block runs out of GPU memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise kind(message()) from error


def encoding(what: str, remedy: str) -> AbstractContextManager:
    """Return a context for encoding, which raises UserError if the GPU runs out of memory."""
    message = f"out of GPU memory while encoding the {what} before training"
    return out_of_memory(UserError, lambda: f"{message}. Close other programs that use the GPU, or {remedy}.")


def make_accelerator(preset: Preset) -> Accelerator:
    """Set up device, precision and processes from `accelerate launch` and the preset."""
    precision = preset.training.mixed_precision
    if precision == "fp16" and not torch.cuda.is_available():
        precision = "no"  # `prepare` refuses this with a message
    accelerator = Accelerator(
        mixed_precision=precision,
        log_with=list(TRACKERS[preset.logging.log_with]) or None,  # accelerate's "all" would be every installed tracker
        project_dir=str(tensorboard_folder(preset)),
        cpu=not has_accelerator(),
        # encoding many prompts on the main process takes longer than other processes usually wait
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
    )
    # The method weighs the pieces of a step itself; accelerate's own setting would divide the loss again.
    accelerator.gradient_accumulation_steps = 1
    return accelerator


def tell(plan: RunPlan, accelerator: Accelerator) -> None:
    """Print what is about to happen in a few lines."""
    preset, model = plan.preset, plan.model

    def say(line: str) -> None:
        accelerator.print(printable(line, keep="\n"))

    for note in [*preset.notes, *plan.notes]:
        say(f"note: {note}")
    say(f"model    {model.files.name} ({model.family.title}), {preset.training.mixed_precision} precision, "
        f"{accelerator.device.type}, {accelerator.num_processes} process(es)")  # fmt: skip
    if model.swaps:
        blocks = model.family.count_blocks(model.layout.shapes)
        say(f"swap     {model.blocks_to_swap} of {blocks} blocks stay in main memory")
    for route in plan.data.summary():
        say(f"route    {route}")
    samples = sum(len(part.texts) for part in plan.data.parts(0))
    say(f"method   {preset.danceopd.method}")
    say(f"student  rank {preset.network.network_dim} on {len(plan.student_layers)} layers, {samples} samples a step, "
        f"{used(preset.optimizer, preset.training.max_train_steps)}")  # fmt: skip
    if accelerator.is_main_process:
        for line in plan_lines(plan):
            say(line)
    if plan.resume:
        say(f"resume   {stem(str(plan.resume.folder))}: {plan.resume.step} steps are done")
