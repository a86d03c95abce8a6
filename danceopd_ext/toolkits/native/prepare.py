"""Checks all of the user's input before a weight is loaded or a file is written.

Models on the hub are downloaded after every other check, so that nobody waits for tens of gigabytes to learn of a typo.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from danceopd_ext.config import Preset
from danceopd_ext.data.load import load_data
from danceopd_ext.data.plan import Plan
from danceopd_ext.data.resolutions import parse_resolution
from danceopd_ext.data.source_images import SourceImages
from danceopd_ext.engine.model import Model, find_model
from danceopd_ext.lora.write import unread
from danceopd_ext.method import METHODS
from danceopd_ext.toolkits.native.checks import (
    check_machine,
    check_output,
    find_pictures,
    left_out,
    left_out_of_start,
    slow_without_gpu,
    unused_keys,
)
from danceopd_ext.toolkits.native.identity import contents_of, settings_of
from danceopd_ext.toolkits.native.launcher import unused_options
from danceopd_ext.toolkits.native.no_effect import cut_to_rank, same_as_base, without_effect
from danceopd_ext.toolkits.native.optimizers import default_optimizer, optimizer_of
from danceopd_ext.toolkits.native.prompt_lines import PreviewPrompt, read_preview_prompts
from danceopd_ext.toolkits.native.rates import rate_notes
from danceopd_ext.toolkits.native.resuming import read_state, student_sizes
from danceopd_ext.toolkits.native.run_plan import Loras, RunPlan
from danceopd_ext.toolkits.native.size import check_step, rank_notes
from danceopd_ext.toolkits.native.state import open_state
from danceopd_ext.toolkits.native.student import choose_layers, find_start
from danceopd_ext.toolkits.native.swapping import check_swapped, swap_notes
from danceopd_ext.toolkits.native.teachers import fetch_weights, find_teachers
from danceopd_ext.toolkits.native.trackers import check_trackers


def prepare(preset: Preset, accelerator: Accelerator) -> RunPlan:
    """Find, check and download everything that the preset names. Raises UserError; writes no file of the run."""
    plan = find_all(preset, accelerator)
    model, teachers = fetch_weights(plan.model, plan.teachers)
    plan = replace(plan, model=model, teachers=teachers)
    identity = {**plan.identity, **contents_of(plan)}
    notes = [*plan.notes, *same_as_base(identity)]
    if plan.resume:
        plan.resume.check(identity)
        if unknown := ", ".join(plan.resume.unknown(identity)):
            notes.append(
                f"resume: an earlier version wrote this state and did not record {unknown}; keep them unchanged"
            )
    return replace(plan, identity=identity, notes=notes)


def find_all(preset: Preset, accelerator: Accelerator) -> RunPlan:
    """Do the part of `prepare` that needs no weights of a hub model."""
    preset = with_optimizer(preset, accelerator)
    check_machine(preset, accelerator)
    trackers = check_trackers(preset.logging, accelerator.is_main_process)
    check_swapped(preset.training)
    model = model_of(preset, accelerator)
    source_images = model.source_images()
    data, notes = _load_data(preset, accelerator.num_processes, source_images)
    data.check_sizes(model.size_limits.multiple, model.size_limits.multiple, model.size_limits.maximum)
    check_step(preset, data, model)
    notes += rate_notes(preset.optimizer, preset.training.max_train_steps)
    pictures = find_pictures(preset.danceopd.method, data, notes)
    method = f'method = "{preset.danceopd.method}"'
    notes += [f"{key} is ignored: {method} does not use it" for key in unused_keys(preset.danceopd)]
    notes += [*left_out(preset.danceopd), *left_out_of_start(preset.danceopd), *unused_options(preset.training)]
    notes += [*trackers.notes, *slow_without_gpu(model), *swap_notes(preset, model)]
    teachers, own = find_teachers(preset.danceopd.teachers, model, notes)
    loras = Loras(own, find_start(preset, model.layout, notes))
    layers = choose_layers(preset, model, teachers, loras)
    notes += rank_notes(preset.network.network_dim, layers, model.layout)
    notes += unread(layers, model.layout, model.family.format_of(preset.saving.save_model_as, layers))
    previews = _find_previews(preset, model, notes, source_images)
    plan = RunPlan(
        preset=preset, model=model, data=data, teachers=teachers, loras=loras, student_layers=layers,
        previews=previews, source_images=source_images, pictures=pictures, notes=notes, offline=trackers.offline,
    )  # fmt: skip
    identity = settings_of(plan)
    fresh = loras.start is None and preset.danceopd.student_init == "fresh"
    notes += without_effect(preset.danceopd, teachers, own, identity["teachers"], fresh)
    if loras.start:
        loras.start = cut_to_rank(loras.start, preset.network.network_dim, notes)
    plan = replace(plan, identity=identity)
    if preset.saving.resume:
        plan = with_state(plan)
    notes += check_output(preset)
    return replace(plan, notes=notes)


def with_optimizer(preset: Preset, accelerator: Accelerator) -> Preset:
    """Return the preset with an optimizer: this machine's default if the preset names none."""
    if preset.optimizer.optimizer_type:
        return preset
    section = replace(preset.optimizer, optimizer_type=default_optimizer(accelerator.device))
    return replace(preset, optimizer=section)


def model_of(preset: Preset, accelerator: Accelerator, check: bool = True) -> Model:
    """Return the base model that the preset names (see find_model). Raises UserError."""
    names = preset.model
    return find_model(
        names.pretrained_model_name_or_path,
        names.model_type,
        names.components_from,
        device=accelerator.device,
        precision=preset.training.mixed_precision,
        attention=preset.attention,
        blocks_to_swap=preset.training.blocks_to_swap,
        quantize=preset.quantize,
        quantize_text_encoders=names.quantize_text_encoders,
        vae_tiling=names.vae_tiling,
        parts=names.part_files,
        check=check,
    )


def with_state(plan: RunPlan) -> RunPlan:
    """Return the plan with the state that it resumes from, after trying that state out. Raises UserError."""
    preset, device = plan.preset, plan.model.device
    state = open_state(Path(preset.saving.resume), plan.identity, preset.training.max_train_steps)
    sizes = student_sizes(plan.model.layout.shapes, plan.student_layers, preset.network.network_dim)
    read_state(state, sizes, optimizer_of(preset, device), device)
    return replace(plan, resume=state)


def _find_previews(preset: Preset, model: Model, notes: list[str], source_images: SourceImages) -> list[PreviewPrompt]:
    sampling = preset.sampling
    wanted = sampling.sample_every_n_steps or sampling.sample_at_first
    if wanted and not sampling.sample_prompts:
        notes.append("no pictures will be drawn: sample_prompts is not set")
    if sampling.sample_prompts and not wanted:
        notes.append("no pictures will be drawn: set sample_every_n_steps as well as sample_prompts")
    if not sampling.sample_prompts:
        return []
    resolution = parse_resolution(preset.dataset.resolution, "resolution")[0]
    return read_preview_prompts(sampling.sample_prompts, model.size_limits, source_images, resolution, notes)


def _load_data(preset: Preset, processes: int, source_images: SourceImages) -> tuple[Plan, list[str]]:
    options, training = preset.danceopd, preset.training
    return load_data(
        list(options.teachers),
        dataset_config=preset.dataset.dataset_config,
        prompts=options.prompts,
        resolution=preset.dataset.resolution,
        weights=options.routes or None,
        seed=training.seed,
        train_batch_size=training.train_batch_size,
        processes=processes,
        micro_batches=training.gradient_accumulation_steps,
        every_route=METHODS[options.method].every_route,
        sources=source_images,
    )
