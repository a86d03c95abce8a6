"""Draws jobs with a model and any of its LoRAs, and keeps pictures that already exist."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from danceopd_ext.engine.drawing import draw
from danceopd_ext.engine.fields import AdapterField
from danceopd_ext.engine.model import Model
from danceopd_ext.errors import TrainingError, UserError
from danceopd_ext.evaluation.conditions import JobConditions
from danceopd_ext.evaluation.jobs import Job
from danceopd_ext.evaluation.loras import BASE
from danceopd_ext.evaluation.pictures import is_picture
from danceopd_ext.files import whole_file
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.weights import Lora
from danceopd_ext.method import Field, generator
from danceopd_ext.models.decoding import NotFinite


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn, the same for every model of a comparison.

    `width` and `height` in pixels; an edit keeps its source's proportions and has about as many pixels.
    """

    width: int = 1024
    height: int = 1024
    steps: int = 28
    guidance_scale: float = 1.0
    seed: int = 0


class Painter:
    """One base model and its LoRAs; the base alone is BASE."""

    def __init__(self, model: Model, loras: Mapping[str, Lora], drawing: Drawing):
        self.model, self.family, self.loras, self.drawing = model, model.family, loras, drawing
        self.limits = model.size_limits

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise UserError if the model cannot do the jobs."""
        for name, side in (("width", self.drawing.width), ("height", self.drawing.height)):
            if side % self.limits.multiple or not 0 < side <= self.limits.maximum:
                raise UserError(
                    f"--{name} {side}: {self.family.title} needs a multiple of {self.limits.multiple} up to "
                    f"{self.limits.maximum}."
                )
        if any(job.source is not None for job in jobs) and not self.family.can_edit:
            raise UserError(f"{self.family.title} cannot edit pictures. Use a model that takes source images.")
        self._check_sources({job.picture.size: job for job in jobs if job.picture})

    def _check_sources(self, by_size: Mapping[tuple[int, int], Job]) -> None:
        for size, job in by_size.items():
            try:
                self.family.source_size(size, self.model.pixels_per_latent, self.size(job))
            except UserError as error:
                raise UserError(f"{job.where}: its source image cannot be used. {error}") from error

    @torch.no_grad()
    def paint(self, jobs: Sequence[Job], folders: Mapping[str, Path], conditions: JobConditions) -> int:
        """Draw every picture that a model's folder lacks and return how many that were.

        `folders`: name of a LoRA, or BASE -> its folder. Noise comes from (seed, name of the picture), so every model
        draws the same noise, and a continued or a longer run the same pictures. Raises TrainingError for a picture that
        is not finite or cannot be written; those before it stay.
        """
        every = [(name, job, _missing(folders[name], job.pictures)) for name in folders for job in jobs]
        todo = [(name, job, files) for name, job, files in every if files or _stale(folders[name], job)]
        count = sum(len(files) for *_, files in todo)
        if not count:
            for name, job, _ in todo:
                _write_scorer_files(folders[name], job)
            return 0
        vae, fields = self.model.load_decoder().to(self.model.device), self._fields(folders)
        with tqdm(total=count, desc="drawing", unit="picture") as bar:
            for name, job, files in todo:
                for file in files:
                    try:
                        picture = self._picture(fields[name], vae, job, file, conditions)
                    except NotFinite:
                        raise self._not_finite(name, job) from None
                    _write(folders[name] / file, _png(picture))
                    bar.update()
                _write_scorer_files(folders[name], job)
        return count

    def _fields(self, names: Iterable[str]) -> dict[str, Field]:
        """Return name of a LoRA, or BASE -> its guided field; all share one base."""
        adapters = Adapters(self.model.load_transformer())
        if not self.model.swaps:
            self.model.place(adapters.transformer)
        for name, lora in self.loras.items():
            adapters.add(f"lora_{name}", lora)
        if self.model.swaps:
            self.model.place(adapters.transformer)
        own = {name: None if name == BASE else f"lora_{name}" for name in names}
        fields = {name: AdapterField(self.family, adapters, own[name], nullcontext) for name in own}
        return {name: self.family.guided(field, self.drawing.guidance_scale) for name, field in fields.items()}

    def size(self, job: Job) -> tuple[int, int]:
        """Return width and height of the picture: for an edit in the source's proportions, with about equal area."""
        if job.picture is None:
            return self.drawing.width, self.drawing.height
        source, limits = job.picture.size, self.limits
        factor = math.sqrt(self.drawing.width * self.drawing.height / (source[0] * source[1]))
        sides = (round(side * factor / limits.multiple) * limits.multiple for side in source)
        width, height = (min(max(side, limits.multiple), limits.maximum) for side in sides)
        return width, height

    def _picture(self, field: Field, vae: Any, job: Job, file: Path, conditions: JobConditions) -> Image.Image:
        model, size = self.model, self.size(job)
        own = generator(self.drawing.seed, "evaluate", file.as_posix())
        noise = torch.randn((1, *model.latent_shape(*size)), generator=own).to(model.device)
        sigmas = model.sigmas(*size, self.drawing.steps)
        return Image.fromarray(draw(field, vae, noise, sigmas, conditions.of(job))[0])

    def _not_finite(self, name: str, job: Job) -> TrainingError:
        """Return the error for NaN or infinite numbers, which as bytes would be a black picture."""
        who, remedies = f"--lora {name}", [f"use another file for --lora {name}, or a lower strength (FILE@0.5)"]
        if name == BASE:
            who, remedies = "the base alone", ["download the model again"]
        if self.model.dtype == torch.float16:  # its largest number is 65504
            remedies.insert(0, "use --mixed_precision bf16 or no, with another --out")
        return TrainingError(
            f'{who} gives NaN or infinite numbers instead of a picture for {job.where} ("{job.prompt}"): '
            f"{'; or '.join(remedies)}. Earlier pictures are kept."
        )


def _missing(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Return the pictures that are missing or damaged; ours are written completely, but a disk can lose data."""
    return [file for file in files if not (folder / file).is_file() or not is_picture(folder / file)]


def _stale(folder: Path, job: Job) -> list[Path]:
    """Return the scorer's files that are missing, or outdated because the benchmark's file was corrected."""
    missing = [file for file in job.scorer_files if not (folder / file).is_file()]
    there = ((file, content) for file, content in job.files.items() if file not in missing)
    return [*missing, *(file for file, content in there if (folder / file).read_bytes() != content)]


def _write_scorer_files(folder: Path, job: Job) -> None:
    for file in _stale(folder, job):
        _write(folder / file, job.content(file))


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _write(path: Path, content: bytes) -> None:
    try:
        with whole_file(path) as part:
            part.write_bytes(content)
    except OSError as error:
        reason = error.strerror or error
        raise TrainingError(
            f"{path} cannot be written ({reason}). Free some disk space; the same command then continues from here."
        ) from error
