"""Finds the part of a native run that broke when its loss or gradient is NaN."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from danceopd_ext.config.schema import Preset
from danceopd_ext.engine.batches import StepData
from danceopd_ext.errors import shorten
from danceopd_ext.finite import first_broken, is_finite
from danceopd_ext.method import Batch, Report, Student, derive_seed
from danceopd_ext.models.conditions import NEGATIVE, SOURCE, PromptTensors
from danceopd_ext.toolkits.nan_search import (
    RATE,
    STUDENT,
    Found,
    Parties,
    broken_student,
    do_again,
    explain,
    files_of,
    not_asked,
    not_found,
)
from danceopd_ext.toolkits.native.build import Fields


class Searched(Protocol):
    """What is asked of a Run (see loop.py)."""

    accelerator: Accelerator
    fields: Fields
    data: StepData
    preset: Preset
    method: Any
    update: Any
    step: int
    parameters: list[torch.nn.Parameter]


AGAIN = "Remove that file; the next start encodes it again"


def blame(run: Searched, report: Report) -> str:
    """Return sentences that name the part that broke first and the remedy, the same on all processes."""
    try:
        said = _blame(run, report)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        said = not_asked(error, report.route)
    if run.accelerator.num_processes > 1:
        heard = gather_object([said])
        said = next((one for one in heard if one), "")
    return said or not_found(report.route)


def _blame(run: Searched, report: Report) -> str:
    """The same for this process's samples; empty if none of them broke."""
    if broken := first_broken(run.fields.adapters.state_dict(STUDENT)):
        return broken_student(broken)
    prompts: dict[int, str] = {}
    held = {route: run.data(route, run.step) for route in report.route.split(" + ")}
    for route, batches in held.items():
        for batch, texts in zip(batches, run.data.texts(route, run.step), strict=True):
            prompts |= {id(item): text for item, text in zip(batch.condition.items, texts, strict=True)}
            if said := next(_broken_data(run, route, batch, texts), None):
                return said
    found, loss = _again(run, held)
    if found:
        return explain(found, _parties(run), _prompt_of(found, prompts))
    if math.isfinite(report.loss):
        return f"the loss is finite and its gradient is not. {RATE}"
    return "" if loss is None or math.isfinite(loss) else f"the loss itself overflows; no field does. {RATE}"


def _again(run: Searched, held: dict[str, list[Batch]]) -> tuple[Found | None, float | None]:
    """Run the step again on the same batches, without its gradient; return what broke, and the loss if nothing did."""
    losses: list[float] = []

    def data(route: str, _: int) -> list[Batch]:
        return held[route]

    def step(watch) -> None:
        torch.manual_seed(derive_seed(run.preset.training.seed, "dropout", run.step, run.accelerator.process_index))
        teachers = {name: watch(name, field) for name, field in run.fields.teachers.items()}
        student = Student(field=watch(STUDENT, run.fields.student), backward=lambda loss: None)
        report = run.update(run.step_of_method(), run.data.plan.weights, data, teachers, student)
        losses.append(report.loss)

    found = do_again(step)
    return found, next(iter(losses), None)


def _prompt_of(found: Found, prompts: dict[int, str]) -> str:
    """The prompt of the first sample that broke, if prompts can be the cause."""
    return "" if found.is_of_all else prompts.get(id(found.condition.items[found.rows[0]]), "")


def _broken_data(run: Searched, route: str, batch: Batch, texts: list[str]) -> Iterator[str]:
    """Messages on data that is not finite: encoded prompts, source images, pictures, noise levels."""
    if not is_finite(batch.sigmas):
        yield "the noise levels of the model's scheduler are NaN or infinite. Check its scheduler_config.json"
    if broken := first_broken(batch.condition.empty):
        folder = run.data.encodings.prompts.folder
        yield f"the encoded empty prompt holds NaN or infinite numbers ({broken}, in {folder}). {AGAIN}"
    for row, (item, text) in enumerate(zip(batch.condition.items, texts, strict=True)):
        if broken := first_broken(item):
            yield f"{_what(broken, item, text)} ({broken}, of route {route}, in {_folder(run, broken)}). {AGAIN}"
        target = batch.clean_latents[row] if batch.clean_latents else None
        if target is not None and not is_finite(target):
            folder = run.data.encodings.pictures.folder
            yield f'the encoded picture of "{shorten(text)}" holds NaN or infinite numbers (in {folder}). {AGAIN}'


def _what(broken: str, item: PromptTensors, text: str) -> str:
    kind = "source image" if broken.removeprefix(NEGATIVE).startswith(SOURCE) else "prompt"
    return f'the encoded {kind} of "{shorten(text)}" holds NaN or infinite numbers'


def _folder(run: Searched, broken: str) -> str:
    sources = run.data.encodings.source_latents if broken.startswith(SOURCE) else None
    return str(sources.folder if sources else run.data.encodings.prompts.folder)


def _parties(run: Searched) -> Parties:
    options = run.preset.danceopd
    scales = {name: teacher.guidance_scale for name, teacher in options.teachers.items()}
    return Parties(
        run.fields.base,
        run.fields.unguided_teachers,
        {**scales, STUDENT: options.student_guidance_scale},
        files_of(options.teachers),
        run.preset.training.mixed_precision,
        run.fields.broken_weight,
        run.parameters,
    )
