"""Finds the part of a hosted run that broke if its loss is NaN, as far as the toolkit allows."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.errors import shorten
from danceopd_ext.finite import broken_weight, first_broken, is_finite
from danceopd_ext.method import Batch, Field
from danceopd_ext.toolkits.hosted.active_adapter import Switch
from danceopd_ext.toolkits.hosted.conditions import Conditions, Entry
from danceopd_ext.toolkits.nan_search import (
    Found,
    Parties,
    broken_student,
    do_again,
    explain,
    files_of,
    not_asked,
    not_found,
)

#: for a value from the toolkit's text encoders, its cache, or ours
ENCODED = (
    "Delete its cache file (the toolkit's, or ours in `cache` in output_dir) to encode it again. If the result is NaN "
    "again, the text encoder is damaged, or fp16 is too narrow for it"
)


class Searched(Protocol):
    """The part of a Distiller (see distiller.py) that the search needs."""

    options: DanceOPDSection
    switch: Switch
    accelerator: Any

    def distil(self, batch: Batch, transformer: torch.nn.Module, backward: Any, watch: Any) -> Any: ...

    def field_of(self, name: str | None, transformer: torch.nn.Module) -> Field: ...


def blame(distiller: Searched, transformer: torch.nn.Module, condition: Conditions, batch: Batch) -> str:
    """Return which part broke first and what to do, in sentences."""
    if broken := first_broken(distiller.switch.student.named_parameters()):
        return broken_student(broken)
    if said := _broken_data(condition, batch):
        return said
    teachers = ", ".join(dict.fromkeys(condition.routes))
    try:
        with torch.no_grad():
            found = do_again(lambda watch: distiller.distil(batch, transformer, lambda loss: None, watch))
            if found:
                return explain(found, _parties(distiller, transformer), _prompt_of(found))
    except (torch.OutOfMemoryError, RuntimeError) as error:
        return not_asked(error, teachers)
    finally:
        distiller.switch.restore()
    return not_found(teachers)


def _broken_data(condition: Conditions, batch: Batch) -> str:
    """Return which data is not finite: noise levels, the empty prompt, a sample's texts or source images; or ""."""
    if not is_finite(batch.sigmas):
        return (
            "the noise levels of the toolkit's sampler are NaN or infinite. Check discrete_flow_shift and similar "
            "arguments"
        )
    for name, entry in (condition.empty or {}).items():
        if not all(map(is_finite, _tensors(entry))):
            return f"the encoded empty prompt holds NaN or infinite numbers ({name}). {ENCODED}"
    for name, entry in condition.entries.items():
        for row in range(len(condition)):
            if not all(map(is_finite, _tensors(None if entry is None else entry[row]))):
                who = f'"{shorten(condition.captions[row])}"' if condition.captions else f"sample {row + 1}"
                return f"the encoded data of {who} holds NaN or infinite numbers ({name}). {ENCODED}"
    return ""


def _tensors(entry: Entry) -> list[torch.Tensor]:
    parts = entry if isinstance(entry, list) else [entry]
    return [part for part in parts if isinstance(part, torch.Tensor)]


def _prompt_of(found: Found) -> str:
    captions = found.condition.captions
    return captions[found.rows[0]] if captions and not found.is_of_all else ""


def _parties(distiller: Searched, transformer: torch.nn.Module) -> Parties:
    options = distiller.options
    return Parties(
        distiller.field_of(None, transformer),
        {name: distiller.field_of(name, transformer) for name in options.teachers},
        {name: teacher.guidance_scale for name, teacher in options.teachers.items()},
        files_of(options.teachers),
        str(getattr(distiller.accelerator, "mixed_precision", "")),
        lambda: broken_weight(transformer),
        list(distiller.switch.student.parameters()),
    )
