"""Draws previews: base, teachers and student side by side, from the same prompts and noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from danceopd_ext.data.pictures import load_picture
from danceopd_ext.data.plan import Prompt
from danceopd_ext.disk_errors import disk_problem
from danceopd_ext.engine.conditions import Conditions
from danceopd_ext.engine.drawing import draw
from danceopd_ext.errors import shorten
from danceopd_ext.files import whole_file
from danceopd_ext.method import Field, generator
from danceopd_ext.models.decoding import NotFinite, decode_finite
from danceopd_ext.picture_grid import draw_grid
from danceopd_ext.toolkits.native.build import Fields
from danceopd_ext.toolkits.native.prompt_lines import PreviewPrompt
from danceopd_ext.toolkits.native.run_plan import RunPlan


class Abandoned(Exception):
    """The run was asked to stop while it drew."""


class Previews:
    """Draws the preview prompts. Base and teachers do not change, so they are drawn once."""

    def __init__(self, plan: RunPlan, fields: Fields, conditions: Conditions, stop: Callable[[], bool]):
        """stop: returns whether the user asked the run to stop."""
        self.preset, self.model, self.prompts = plan.preset, plan.model, plan.previews
        self.fields, self.conditions, self.stop = fields, conditions, stop
        self.folder = Path(plan.preset.saving.output_dir) / "sample"
        self.fixed: dict[str, list[np.ndarray]] = {}
        self.told: set[str] = set()
        self.vae = plan.model.load_decoder()

    def draw(self, step: int, say: Callable[[str], None]) -> Image.Image:
        """Draw all prompts, write `sample/NAME-step00000300.png`, and return the grid. Raises Abandoned."""
        if not self.fixed:
            columns: Mapping[str, Field] = {"base": self.fields.base, **self._other_teachers()}
            self.fixed = {name: self._column(name, field, say) for name, field in columns.items()}
        student = self._column("student", self.fields.plain_student, say)
        columns = {**self._sources(), **self.fixed, "student": student}
        prompts = [line.prompt for line in self.prompts]
        grid = draw_grid(prompts, columns, title=f"step {step}")
        self._save(grid, self.folder / f"{self.preset.saving.output_name}-step{step:08d}.png", say)
        return grid

    def _save(self, grid: Image.Image, path: Path, say: Callable[[str], None]) -> None:
        """Write the file; each reason why the disk refuses it is reported once, and training goes on."""
        try:
            with whole_file(path) as part:
                grid.save(part, format="PNG")
        except OSError as error:
            problem = disk_problem(error)
            if problem is None:
                raise
            if problem.reason not in self.told:
                say(f"the pictures {path} are not saved: {problem.reason}. Training goes on. {problem.remedy}")
            self.told.add(problem.reason)
            return
        say(f"pictures: {path}")

    def _sources(self) -> dict[str, list[np.ndarray]]:
        """The first source image of each prompt, at the size of the picture; white for a prompt without one."""
        if not any(line.sources for line in self.prompts):
            return {}
        return {"source": [_source_picture(line) for line in self.prompts]}

    def _other_teachers(self) -> dict[str, Field]:
        return {name: field for name, field in self.fields.teachers.items() if field is not self.fields.base}

    def _column(self, name: str, field: Field, say: Callable[[str], None]) -> list[np.ndarray]:
        """A picture for each prompt. One that is not finite is black, which is reported once; training goes on."""
        column = []
        for place, line in enumerate(self.prompts):
            if self.stop():
                raise Abandoned
            try:
                column.append(self._picture(field, line, place))
            except NotFinite:
                column.append(np.zeros((line.height, line.width, 3), np.uint8))
                if name not in self.told:
                    say(self._not_finite(name, line))
                self.told.add(name)
        return column

    def _not_finite(self, name: str, line: PreviewPrompt) -> str:
        narrow = self.preset.training.mixed_precision == "fp16"
        remedy = ' fp16 may be too narrow for this model: try mixed_precision = "bf16".' if narrow else ""
        prompt = shorten(line.prompt)
        return f'pictures: {name} gives NaN or infinite numbers for "{prompt}"; such pictures are black.{remedy}'

    def _picture(self, field: Field, line: PreviewPrompt, place: int) -> np.ndarray:
        """Draw one picture, uint8 [H, W, 3], on the pipeline's sigma grid. Raises NotFinite."""
        rng = torch.Generator("cpu").manual_seed(line.seed) if line.seed is not None else self._own_noise(place)
        model, size = self.model, (line.width, line.height)
        noise = torch.randn((1, *model.latent_shape(*size)), generator=rng).to(model.device)
        condition = self.conditions.of([Prompt(line.prompt, line.sources, size)], line.negative_prompt)
        guided = model.family.guided(field, line.guidance_scale)
        return draw(guided, self.vae, noise, model.sigmas(*size, line.steps), condition, self._decode)[0]

    def _decode(self, vae: Any, latents: torch.Tensor) -> np.ndarray:
        """Decode as decode_finite does, with the VAE on the device only meanwhile."""
        vae.to(self.model.device)
        try:
            return decode_finite(vae, latents)
        finally:
            vae.to("cpu")

    def _own_noise(self, place: int) -> torch.Generator:
        return generator(self.preset.training.seed, "preview", place)


def _source_picture(line: PreviewPrompt) -> np.ndarray:
    """The source image, uint8 [H, W, 3], scaled to fit into the prompt's picture."""
    if not line.sources:
        return np.full((line.height, line.width, 3), 255, np.uint8)
    image = load_picture(line.sources[0])
    scale = min(line.width / image.width, line.height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))
