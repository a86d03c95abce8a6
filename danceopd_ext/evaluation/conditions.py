"""Encodes the jobs' prompts and source images to disk, so that the encoders are unloaded before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from danceopd_ext.data.items import Size
from danceopd_ext.data.plan import Prompt
from danceopd_ext.engine import latents, prompts
from danceopd_ext.engine.conditions import Conditions, Encodings
from danceopd_ext.engine.model import Model
from danceopd_ext.engine.prompts import EMPTY
from danceopd_ext.evaluation.jobs import Job
from danceopd_ext.models.conditions import TextConditions

REMEDY = "Free some disk space, choose another --out, or draw fewer prompts (--limit)."


class JobConditions:
    """The encodings of a benchmark.

    `size`: of a job's picture, in pixels. `guided`: whether drawing uses guidance, which needs the empty prompt.
    """

    def __init__(self, model: Model, jobs: Sequence[Job], size: Callable[[Job], Size], folder: Path, guided: bool):
        self.model, self.jobs, self.size, self.guided, self.folder = model, jobs, size, guided, folder
        self._with_source = {job.source_file: job for job in jobs if job.source is not None}
        self.source_images = model.source_images()
        self.source_images.pictures.update({file: job.picture for file, job in self._with_source.items()})
        self.source_images.uses.update({(file, size(job)): None for file, job in self._with_source.items()})
        self.prompt_cache = prompts.open_prompt_cache(model, folder, self.source_images)

    @property
    def _negatives_see_sources(self) -> bool:
        """Return whether guidance needs the empty prompt once per source image."""
        return self.guided and self.model.family.text_sees_sources

    def prompts(self) -> list[Prompt]:
        """Return all that is encoded: the empty prompt with a source only if it is used, as in training."""
        found, asked = [Prompt(EMPTY)], [self._asked(job) for job in self.jobs]
        if self._negatives_see_sources:
            found += [prompt._replace(text=EMPTY) for prompt in asked if prompt.sources]
        return list(dict.fromkeys([*found, *asked]))

    def _asked(self, job: Job) -> Prompt:
        return job.encoded_prompt._replace(drawn=self.size(job))

    def encode(self) -> None:
        """Encode all that the caches lack; the encoders are unloaded afterwards.

        Raises UserError if the disk has too little space.
        """
        latent_cache = latents.open_source_cache(self.model, self.folder, self.source_images, self._image)
        prompts.encode_missing(
            self.model, self.prompt_cache, self.prompts(), tqdm.write, REMEDY, load_image=self._image
        )
        if latent_cache:
            latents.encode_source_images(self.model, latent_cache, tqdm.write, REMEDY)
        self._conditions = Conditions(self.model, Encodings(self.prompt_cache, latent_cache))

    def _image(self, file: Path) -> Image.Image:
        return self._with_source[file].source_image()

    def of(self, job: Job) -> TextConditions:
        """Return the condition of one picture, on the device, once all is encoded."""
        return self._conditions.of([self._asked(job)], EMPTY if self.guided else None)
