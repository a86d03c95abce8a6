"""Chooses the layers that the student changes, and makes it from what it starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from danceopd_ext.config import Preset
from danceopd_ext.engine.model import Model
from danceopd_ext.errors import UserError
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.algebra import check_additive, merge
from danceopd_ext.lora.read import read_lora
from danceopd_ext.lora.weights import Lora
from danceopd_ext.method import generator
from danceopd_ext.models.layout import Layout
from danceopd_ext.toolkits.native.no_effect import at_rank, lost_by_rank
from danceopd_ext.toolkits.native.run_plan import STUDENT, FoundTeacher, Loras, RunPlan
from danceopd_ext.toolkits.native.teachers import check_mergeable


def find_start(preset: Preset, layout: Layout, notes: list[str]) -> Lora | None:
    """Return the LoRA of network_weights, if the preset names one. Raises UserError."""
    if not preset.network.network_weights:
        return None
    try:
        # parts that a student cannot have are left out, which the notes report
        start = read_lora(preset.network.network_weights, layout, ignore_text_encoder=True, ignore_other_parts=True)
        check_additive(start, "the student is a plain LoRA and cannot start from such a file. Use it as a teacher.")
        notes += [f"network_weights: {note}" for note in start.notes]
        return start
    except UserError as error:
        raise UserError(f"network_weights: {error}") from error


def choose_layers(preset: Preset, model: Model, teachers: Mapping[str, FoundTeacher], loras: Loras) -> list[str]:
    """Return the names of the layers that the student changes, with all layers of the LoRAs that it starts from.

    Sizes of a family differ in their layers: a default that this one does not have is skipped. Raises UserError for
    an ending that the preset names and no layer has.
    """
    family, layout, asked = model.family, model.layout, preset.danceopd.lora_targets
    endings = asked or family.lora_targets
    unused = [e for e in endings if not any(_ends_with(layer, e) for layer in layout.shapes)]
    if unused and (asked or len(unused) == len(endings)):
        default = ", ".join(family.lora_targets)
        raise UserError(f"lora_targets: no layer of {family.title} ends with {unused[0]}. Its default is {default}.")
    chosen = {layer for layer in layout.shapes if any(_ends_with(layer, e) for e in endings)}
    if loras.start:
        chosen.update(loras.start.modules)
    if preset.danceopd.student_init != "fresh":
        chosen.update(_layers_of_merge(preset.danceopd.student_init, layout, teachers, loras.teachers))
    return sorted(chosen)


def _layers_of_merge(
    setting: str, layout: Layout, teachers: Mapping[str, FoundTeacher], loras: Mapping[str, Lora]
) -> set[str]:
    """The layers that the merge of the teachers changes. Raises UserError if there is nothing to merge."""
    extracted = any(found.settings.extract_rank for found in teachers.values())
    if not loras and not extracted:
        raise UserError(f'student_init = "{setting}": no teacher is a LoRA, so there is nothing to merge. Use "fresh".')
    check_mergeable(loras, f'student_init = "{setting}"')
    return set().union(*(lora.modules for lora in loras.values()), layout.shapes if extracted else ())


def _ends_with(layer: str, ending: str) -> bool:
    return layer == ending or layer.endswith("." + ending)


def start_of(preset: Preset) -> str:
    """Return what the student starts from, in words for a message."""
    if preset.network.network_weights:
        return f"network_weights = {preset.network.network_weights}"
    return f'the start of the student (student_init = "{preset.danceopd.student_init}")'


def add_student(adapters: Adapters, plan: RunPlan, changes: Sequence[Lora], say: Callable[[str], None]) -> None:
    """Add the trainable LoRA: fresh, from network_weights, or from the merge of the teachers' changes."""
    network, options = plan.preset.network, plan.preset.danceopd
    start = plan.loras.start
    if options.student_init != "fresh":
        merged = merge(list(changes), options.student_init.removeprefix("merge_"))
        start, lost = at_rank(merged, network.network_dim)
        if lost:
            say(f"note: {lost_by_rank('merge that the student starts from', network.network_dim, lost)}")
    adapters.add_student(
        STUDENT,
        network.network_dim,
        network.network_alpha or network.network_dim,
        list(plan.student_layers),
        dropout=network.network_dropout or 0.0,
        generator=generator(plan.preset.training.seed, "student"),
        init=start,
    )
