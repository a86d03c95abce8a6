"""Everything that can be wrong with the user's input, found before a weight is loaded or a file is written.

Models on the hub are downloaded when nothing else is wrong: nobody waits for tens of gigabytes to read of a typing
error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from accelerate import Accelerator

from danceopd_ext.config import Preset, Teacher
from danceopd_ext.data.load import load_data
from danceopd_ext.data.plan import Plan
from danceopd_ext.data.resolutions import parse_resolution
from danceopd_ext.data.sources import SourceImages
from danceopd_ext.data.targets import PictureFile
from danceopd_ext.errors import UserError
from danceopd_ext.lora.algebra import check_additive, combine
from danceopd_ext.lora.layout import Layout
from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Lora
from danceopd_ext.lora.write import unread
from danceopd_ext.method import METHODS
from danceopd_ext.models.family import Family
from danceopd_ext.models.loading import Source, fetch, find_source, load_layout
from danceopd_ext.toolkits.native.checks import (
    check_attention,
    check_machine,
    check_output,
    check_transformer,
    check_weights,
    find_pictures,
    left_out,
    left_out_of_start,
    slow_without_gpu,
    source_rules,
    unused_keys,
)
from danceopd_ext.toolkits.native.effects import (
    cut_to_rank,
    of_teacher,
    same_as_base,
    without_effect,
    zero_files,
)
from danceopd_ext.toolkits.native.identity import contents_of, settings_of
from danceopd_ext.toolkits.native.launcher import unused_options
from danceopd_ext.toolkits.native.optimizers import optimizer_of
from danceopd_ext.toolkits.native.prompt_lines import PreviewPrompt, read_preview_prompts
from danceopd_ext.toolkits.native.rates import rate_notes
from danceopd_ext.toolkits.native.resuming import read_state, student_sizes
from danceopd_ext.toolkits.native.size import check_step, rank_notes
from danceopd_ext.toolkits.native.state import SavedState, open_state
from danceopd_ext.toolkits.native.trackers import check_trackers

#: the name of the student's adapter; a teacher cannot be called so
STUDENT = "student"


@dataclass
class TeacherSource:
    """A teacher that was found: a LoRA already in memory, or a checkpoint that is not, or neither (the base)."""

    settings: Teacher
    lora: Lora | None = None
    checkpoint: Source | None = None
    notes: list[str] = field(default_factory=list)
    """What in its files has no effect."""


@dataclass
class Prepared:
    """A run whose input is sound. `config`: the transformer's configuration."""

    preset: Preset
    source: Source
    layout: Layout
    config: dict
    plan: Plan
    notes: list[str]
    teachers: dict[str, TeacherSource]
    start: Lora | None
    targets: list[str]
    previews: list[PreviewPrompt]
    sources: SourceImages
    pictures: dict[Path, PictureFile] = field(default_factory=dict)
    """The picture files that the method starts from."""
    resume: SavedState | None = None
    offline: bool = False
    """Whether W&B records this run offline because its server does not answer."""
    trackers: dict[str, str] = field(default_factory=dict)
    """Tracker -> the id of this run there, so that a resumed training goes on with it."""
    identity: dict[str, object] = field(default_factory=dict)
    """What must be equal for a saved state to be continued."""

    @property
    def family(self) -> Family:
        return self.source.family

    @property
    def guided(self) -> bool:
        """Whether a field that training asks has guidance in it."""
        options = self.preset.danceopd
        scales = [options.student_guidance_scale, *(teacher.guidance_scale for teacher in options.teachers.values())]
        return any(scale != 1 for scale in scales)

    def forget_loras(self) -> None:
        """Free the LoRAs that were read, once the model holds them."""
        self.start = None
        for found in self.teachers.values():
            found.lora = None


def prepare(preset: Preset, accelerator: Accelerator) -> Prepared:
    """Find, check and download everything that the preset names. Raises UserError; writes nothing of the run."""
    prepared = find_all(preset, accelerator)
    prepared.source = fetch_weights(prepared.source, prepared.teachers)
    prepared.identity |= contents_of(prepared)
    prepared.notes += same_as_base(prepared.identity)
    if prepared.resume:
        prepared.resume.check(prepared.identity)
        if unknown := ", ".join(prepared.resume.unknown(prepared.identity)):
            prepared.notes.append(
                f"resume: an earlier version wrote this state, without {unknown}: they must be as they were"
            )
    return prepared


def find_all(preset: Preset, accelerator: Accelerator) -> Prepared:
    """All of `prepare` that needs no weights of a hub model."""
    check_machine(preset, accelerator)
    trackers = check_trackers(preset.logging, accelerator.is_main_process)
    source = find_source(
        preset.model.pretrained_model_name_or_path, preset.model.model_type, preset.model.components_from
    )
    check_weights(source)
    layout, config = load_layout(source)
    check_attention(source, config, preset.attention)
    sources = source_rules(source, config)
    plan, notes = _load_plan(preset, accelerator.num_processes, sources)
    _check_sizes(plan, source, config)
    check_step(preset, plan, source, config, accelerator.device)
    notes += rate_notes(preset.optimizer, preset.training.max_train_steps)
    pictures = find_pictures(preset.danceopd.method, plan, notes)
    method = f'method = "{preset.danceopd.method}"'
    notes += [f"{key} is ignored: {method} does not use it" for key in unused_keys(preset.danceopd)]
    notes += [*left_out(preset.danceopd), *left_out_of_start(preset.danceopd), *unused_options(preset.training)]
    notes += [*trackers.notes, *slow_without_gpu(accelerator.device, layout, source.family)]
    teachers = {name: find_teacher(name, t, source, layout) for name, t in preset.danceopd.teachers.items()}
    notes += [note for name, found in teachers.items() for note in of_teacher(name, found)]
    start = _find_start(preset, layout, notes)
    targets = choose_targets(preset, source.family, layout, teachers, start)
    notes += rank_notes(preset.network.network_dim, targets, layout)
    notes += unread(targets, layout, source.family.format_of(preset.saving.save_model_as, targets))
    previews = _find_previews(preset, source, config, notes, sources)
    prepared = Prepared(
        preset, source, layout, config, plan, notes, teachers, start, targets, previews, sources, pictures
    )
    prepared.offline = trackers.offline
    prepared.identity = settings_of(prepared)
    fresh = start is None and preset.danceopd.student_init == "fresh"
    notes += without_effect(preset.danceopd, teachers, prepared.identity["teachers"], fresh)
    if start:
        prepared.start = cut_to_rank(start, preset.network.network_dim, notes)
    if preset.saving.resume:
        prepared.resume = open_state(Path(preset.saving.resume), prepared.identity, preset.training.max_train_steps)
        sizes = student_sizes(layout.shapes, targets, preset.network.network_dim)
        read_state(prepared.resume, sizes, optimizer_of(preset, accelerator.device), accelerator.device)
    notes += check_output(preset)
    return prepared


def fetch_weights(source: Source, teachers: dict[str, TeacherSource]) -> Source:
    """Download what is still on the hub, each model once, and check it. Returns the base; teachers get their own."""
    fetched = lru_cache(maxsize=None)(fetch)
    base = fetched(source)
    check_weights(base)
    for found in teachers.values():
        if found.checkpoint:
            found.checkpoint = fetched(found.checkpoint)
            check_transformer(found.checkpoint)
    return base


def choose_targets(
    preset: Preset, family: Family, layout: Layout, teachers: dict[str, TeacherSource], start: Lora | None
) -> list[str]:
    """Names of the layers that the student changes, with all layers of the LoRAs that it starts from.

    Sizes of a family differ in their layers: a default that this one does not have is skipped. Raises UserError for
    an ending that the preset names and no layer has.
    """
    asked = preset.danceopd.lora_targets
    endings = asked or family.lora_targets
    unused = [e for e in endings if not any(_ends_with(layer, e) for layer in layout.shapes)]
    if unused and (asked or len(unused) == len(endings)):
        default = ", ".join(family.lora_targets)
        raise UserError(f"lora_targets: no layer of {family.title} ends with {unused[0]}. Its default is {default}.")
    chosen = {layer for layer in layout.shapes if any(_ends_with(layer, e) for e in endings)}
    if start:
        chosen.update(start.modules)
    if preset.danceopd.student_init != "fresh":
        loras = [found.lora for found in teachers.values() if found.lora]
        extracted = any(found.settings.extract_rank for found in teachers.values())
        if not loras and not extracted:
            raise UserError(
                f'student_init = "{preset.danceopd.student_init}": no teacher is a LoRA, there is nothing to merge. '
                'Use "fresh".'
            )
        check_mergeable(teachers, f'student_init = "{preset.danceopd.student_init}"')
        chosen.update(*(lora.modules for lora in loras), layout.shapes if extracted else ())
    return sorted(chosen)


def check_mergeable(teachers: Mapping[str, TeacherSource], setting: str) -> None:
    """Raise UserError naming the teacher whose change cannot be added to others: a DoRA."""
    for name, found in teachers.items():
        if found.lora:
            try:
                check_additive(found.lora, f"{setting} adds changes. Use another teacher here, or another setting.")
            except UserError as error:
                raise UserError(f"[danceopd.teachers.{name}] {error}") from error


def _ends_with(layer: str, ending: str) -> bool:
    return layer == ending or layer.endswith("." + ending)


def _find_start(preset: Preset, layout: Layout, notes: list[str]) -> Lora | None:
    if not preset.network.network_weights:
        return None
    try:
        # what a student cannot have is left out, and the notes say so
        start = read_lora(preset.network.network_weights, layout, ignore_text_encoder=True, ignore_other_parts=True)
        check_additive(start, "the student is a plain LoRA and cannot start from one. Use it as a teacher.")
        notes += [f"network_weights: {note}" for note in start.notes]
        return start
    except UserError as error:
        raise UserError(f"network_weights: {error}") from error


def _find_previews(
    preset: Preset, source: Source, config: dict, notes: list[str], sources: SourceImages
) -> list[PreviewPrompt]:
    sampling = preset.sampling
    wanted = sampling.sample_every_n_steps or sampling.sample_at_first
    if wanted and not sampling.sample_prompts:
        notes.append("no pictures will be drawn: sample_prompts names no file")
    if sampling.sample_prompts and not wanted:
        notes.append("no pictures will be drawn: set sample_every_n_steps as well as sample_prompts")
    if not sampling.sample_prompts:
        return []
    resolution = parse_resolution(preset.dataset.resolution, "resolution")[0]
    return read_preview_prompts(sampling.sample_prompts, source, config, sources, resolution, notes)


def _load_plan(preset: Preset, processes: int, sources: SourceImages) -> tuple[Plan, list[str]]:
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
        sources=sources,
    )


def _check_sizes(plan: Plan, source: Source, config: dict) -> None:
    limits = source.family.size_limits(config, source.vae_scale_factor)
    plan.check_sizes(limits.multiple, limits.multiple, limits.maximum)


def find_teacher(name: str, settings: Teacher, source: Source, layout: Layout) -> TeacherSource:
    """Find a teacher and read its LoRA; a checkpoint on the hub is not downloaded yet. Raises UserError naming it."""
    if name == STUDENT or "." in name or not name:
        raise UserError(f'[danceopd.teachers.{name}]: a teacher cannot be called "{name}"; choose a plain word.')
    try:
        if settings.checkpoint:
            checkpoint = find_source(settings.checkpoint, source.family.name, str(source.components), key="checkpoint")
            check_transformer(checkpoint)
            _check_same_size(checkpoint, layout)
            return TeacherSource(settings, checkpoint=checkpoint)
        loras = [read_lora(place, layout, **settings.ignored) for place in settings.loras]
    except UserError as error:
        raise UserError(f"[danceopd.teachers.{name}] {error}") from error
    lora = combine(list(zip(loras, settings.strengths, strict=True))) if loras else None
    return TeacherSource(settings, lora=lora, notes=zero_files(loras))


def _check_same_size(checkpoint: Source, layout: Layout) -> None:
    other = load_layout(checkpoint)[0].shapes
    wrong = [name for name in {**layout.shapes, **other} if layout.shapes.get(name) != other.get(name)]
    if wrong:
        raise UserError(
            f"{checkpoint.name} is another size of model than the base: {len(wrong)} layers differ, such as "
            f"{wrong[0]}. Use a checkpoint that was trained from exactly this base."
        )


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of mixed_precision and save_precision words."""
    return {"no": torch.float32, "float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]
