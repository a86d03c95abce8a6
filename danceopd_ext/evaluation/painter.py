"""Draws jobs with a model and any of its LoRAs; what is on the disk already stays."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.data.text_cache import TextCache
from danceopd_ext.errors import UserError
from danceopd_ext.evaluation.jobs import Job
from danceopd_ext.files import whole_file
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.algebra import combine
from danceopd_ext.lora.read import read_lora
from danceopd_ext.method import generator, rollout
from danceopd_ext.models.conditions import TextConditions, edit_item
from danceopd_ext.models.decoding import decode
from danceopd_ext.models.loading import (
    Source,
    load_layout,
    load_scheduler,
    load_text_pipeline,
    load_transformer,
    load_vae,
)

EMPTY = ""
#: the column without a LoRA
BASE = "base"


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn: the same for every model of a comparison.

    `width` and `height` in pixels; an edit keeps its source's proportions and has about as many pixels.
    """

    width: int = 1024
    height: int = 1024
    steps: int = 28
    guidance_scale: float = 1.0
    seed: int = 0


class Painter:
    """One base model and its LoRAs: name -> ((file, strength), ...); the base alone is BASE."""

    def __init__(
        self,
        source: Source,
        loras: Mapping[str, Sequence[tuple[str, float]]],
        drawing: Drawing,
        cache_folder: Path,
        device: torch.device,
        dtype: torch.dtype,
    ):
        self.source, self.family, self.drawing = source, source.family, drawing
        self.device, self.dtype = device, dtype
        layout, self.config = load_layout(source)
        self._check_size()
        self.loras = {
            name: combine([(read_lora(place, layout), strength) for place, strength in parts])
            for name, parts in loras.items()
        }
        key = f"{self.family.name}-{fingerprint(source.text_files)}-{str(dtype).removeprefix('torch.')}"
        self.cache = TextCache(cache_folder, key)

    def _check_size(self) -> None:
        limits = self.family.size_limits(self.config, self.source.vae_scale_factor)
        for name, side in (("width", self.drawing.width), ("height", self.drawing.height)):
            if side % limits.multiple or not 0 < side <= limits.maximum:
                raise UserError(
                    f"--{name} {side}: {self.family.title} draws multiples of {limits.multiple} up to {limits.maximum}."
                )

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise UserError when the model cannot do what the jobs ask for."""
        edits = any(job.source is not None for job in jobs)
        if edits and not self.family.can_edit:
            raise UserError(f"{self.family.title} cannot edit pictures: use a model that takes source images.")
        if not edits and self.family.needs_source:
            raise UserError(f"{self.family.title} only edits pictures: use it with an edit benchmark.")

    def encode(self, jobs: Sequence[Job]) -> None:
        """Encode all prompts that the cache lacks; then the text encoders are gone from memory."""
        by_key = {job.key: job for job in jobs} | {self._negative_key(job): job for job in jobs}
        keys = [*by_key, *([EMPTY] if any(job.source is None for job in jobs) else [])]
        if not self.cache.missing(keys):
            return
        pipeline = load_text_pipeline(self.source, self.dtype, self.device)

        @torch.no_grad()
        def encode(wanted: list[str]) -> list[dict[str, torch.Tensor]]:
            texts = [key.partition("\n")[0] if key in by_key else key for key in wanted]
            sources = [by_key[key].source_image() if key in by_key else None for key in wanted]
            pictures = [[image] if image else [] for image in sources]
            return self.family.encode_prompts(pipeline, texts, pictures if any(pictures) else None)

        self.cache.encode_missing(keys, encode)

    def _negative_key(self, job: Job) -> str:
        return EMPTY if job.source is None else job.key.replace(job.prompt, EMPTY, 1)

    @torch.no_grad()
    def paint(self, jobs: Sequence[Job], folders: Mapping[str, Path]) -> int:
        """Draw every picture that a model's folder lacks and return how many that were.

        `folders`: name of a LoRA, or BASE -> its folder. Noise comes from (seed, place of the picture), so every model
        draws the same noise, and a continued run the same pictures.
        """
        todo = [(name, n, job) for name in folders for n, job in enumerate(jobs) if self._lacks(folders[name], job)]
        count = sum(len(job.pictures) for _, _, job in todo)
        if not todo:
            return 0
        transformer = load_transformer(self.source, self.dtype).to(self.device)
        adapters = Adapters(transformer)
        for name, lora in self.loras.items():
            adapters.add(f"lora_{name}", lora)
        transformer.eval()
        vae, scheduler = load_vae(self.source, self.dtype).to(self.device), load_scheduler(self.source)

        def velocity(latents: torch.Tensor, sigma: torch.Tensor, condition: TextConditions) -> torch.Tensor:
            return self.family.velocity(transformer, latents, sigma, condition).float()

        field = self.family.guided(velocity, self.drawing.guidance_scale)
        with tqdm(total=count, desc="drawing", unit="picture") as bar:
            for name, number, job in todo:
                adapters.activate(None if name == BASE else f"lora_{name}")
                for place, file in enumerate(job.pictures):
                    if not (folders[name] / file).is_file():
                        picture = self._picture(field, vae, scheduler, job, (number, place))
                        _write(folders[name] / file, _png(picture))
                    bar.update()
                for file, content in job.files.items():
                    _write(folders[name] / file, content)
        return count

    @staticmethod
    def _lacks(folder: Path, job: Job) -> bool:
        return not all((folder / file).is_file() for file in (*job.pictures, *job.files))

    def _size(self, job: Job) -> tuple[int, int]:
        """Width and height of the picture: for an edit in the source's proportions, with about as many pixels."""
        image = job.source_image()
        if image is None:
            return self.drawing.width, self.drawing.height
        limits = self.family.size_limits(self.config, self.source.vae_scale_factor)
        factor = math.sqrt(self.drawing.width * self.drawing.height / (image.width * image.height))
        sides = (round(side * factor / limits.multiple) * limits.multiple for side in image.size)
        width, height = (min(max(side, limits.multiple), limits.maximum) for side in sides)
        return width, height

    def _picture(self, field, vae, scheduler, job: Job, place: tuple[int, int]) -> Image.Image:
        item = self.cache.get(job.key)
        if job.source is not None:
            negative = self.cache.get(self._negative_key(job))
            item = edit_item(item, self.family.encode_sources(vae, [job.source_image()]), negative)
        empty = self.cache.get(EMPTY) if job.source is None else {}
        condition = TextConditions([item], empty).to(self.device)
        drawing, scale = self.drawing, self.source.vae_scale_factor
        shape = self.family.latent_shape(self.config, scale, *self._size(job))
        sigmas = self.family.sigmas(scheduler, self.config, drawing.steps, shape[1:])
        noise = torch.randn((1, *shape), generator=generator(drawing.seed, "evaluate", *place)).to(self.device)
        latents = rollout(field, noise, sigmas, condition, torch.tensor([[drawing.steps]]))[:, 0]
        return Image.fromarray(decode(vae, latents)[0])


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as part:
        part.write_bytes(content)
