"""Assigns the [[datasets]] entries of musubi's dataset configuration to teachers ([danceopd.datasets])."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.errors import UserError, nearest

#: keys whose path can name a dataset instead of its number
PLACES = ("cache_directory", "image_directory", "image_jsonl_file", "video_directory", "video_jsonl_file")


def routes_of_datasets(datasets: Sequence[Any], options: DanceOPDSection) -> list[str]:
    """Return the teacher of each of musubi's datasets. Raises UserError if one has none, or two, or does not exist.

    A single teacher gets all datasets.
    """
    teachers = list(options.teachers)
    for name in options.datasets:
        if name not in teachers:
            raise UserError(
                f'[danceopd.datasets]: "{name}" is not a teacher.{nearest(name, teachers)} '
                f"Teachers: {', '.join(teachers)}."
            )
    if len(teachers) == 1 and not options.datasets:
        return teachers * len(datasets)
    owner: dict[int, str] = {}
    for teacher, entry in options.datasets.items():
        for which in entry if isinstance(entry, list) else [entry]:
            index = _index(which, teacher, datasets)
            if owner.setdefault(index, teacher) != teacher:
                raise UserError(
                    f"[danceopd.datasets]: dataset {index + 1} belongs to {owner[index]} and to {teacher}, but a "
                    "picture has one teacher. Remove one, or give each its own dataset with its own cache_directory."
                )
    lost = [index for index in range(len(datasets)) if index not in owner]
    if lost:
        raise UserError(
            f"[danceopd.datasets]: {_listed(datasets, lost)} of dataset_config has no teacher. Write NAME = "
            f"{lost[0] + 1} (teachers: {', '.join(teachers)}; all datasets: {_listed(datasets)})."
        )
    return [owner[index] for index in range(len(datasets))]


def check_guidance(datasets: Sequence[Any], routes: Sequence[str], options: DanceOPDSection) -> None:
    """Raise UserError for guidance on source images if the text encoder also reads these.

    Guidance needs the empty prompt with each image, and musubi's cache files only contain the caption. routes: the
    teacher of each dataset.
    """
    for place, (dataset, route) in enumerate(zip(datasets, routes, strict=True)):
        guided = options.teachers[route].guidance_scale != 1 or options.student_guidance_scale != 1
        if guided and dataset.has_control:
            where = "student_guidance_scale" if options.student_guidance_scale != 1 else f"teacher {route}"
            raise UserError(
                f"[danceopd] guidance of {where} on source images (dataset {place + 1} of dataset_config): the text "
                "encoder of this model reads the source image. Guidance would need the empty prompt encoded with each "
                "image, and musubi-tuner's cache files do not contain that. Remove the guidance, or give the teacher "
                "prompts without source images ([danceopd.prompts])."
            )


def _index(which: int | str, teacher: str, datasets: Sequence[Any]) -> int:
    """Return the index of the dataset that `which` means."""
    if isinstance(which, int):
        found = [which - 1] if 1 <= which <= len(datasets) else []
    else:
        wanted = _place(which)
        found = [i for i, dataset in enumerate(datasets) if wanted in map(_place, _places(dataset).values())]
    if len(found) == 1:
        return found[0]
    problem = (
        "there is no such dataset"
        if not found
        else f"several datasets have it ({_listed(datasets, found)}), so write a number"
    )
    raise UserError(f"[danceopd.datasets] {teacher} = {which!r}: {problem}. dataset_config has {_listed(datasets)}.")


def _places(dataset: Any) -> dict[str, str]:
    given = {name: getattr(dataset, name, None) for name in PLACES}
    return {name: value for name, value in given.items() if value}


def _place(text: str) -> str:
    """Return one spelling of a path; links are not followed, as in musubi."""
    return os.path.normcase(os.path.abspath(os.path.expanduser(text)))


def _listed(datasets: Sequence[Any], which: Sequence[int] | None = None) -> str:
    """`1 (cache/style), 2 (cache/edit)`."""
    chosen = range(len(datasets)) if which is None else which
    names = [next(iter(_places(datasets[i]).values()), "") for i in chosen]
    return ", ".join(f"{i + 1} ({name})" for i, name in zip(chosen, names, strict=True))


def check_routes_have_data(weights: Mapping[str, float], fed: Mapping[str, int]) -> None:
    """Raise UserError if a teacher with a weight has no data. fed: teacher -> number of its batches."""
    for name, weight in weights.items():
        if weight > 0 and not fed.get(name):
            raise UserError(
                f"teacher {name} has no data: give it a dataset ({name} = NUMBER in [danceopd.datasets]), a prompt "
                f'file ({name} = "prompts.txt" in [danceopd.prompts]), or the weight 0 in [danceopd.routes].'
            )
