"""The jobs' prompts -> encoded prompts on disk, so that the text encoders can leave before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from danceopd_ext.data.fingerprint import fingerprint
from danceopd_ext.data.items import Size
from danceopd_ext.data.plan import Prompt
from danceopd_ext.data.prompt_cache import PromptCache
from danceopd_ext.data.sources import SourceImages
from danceopd_ext.data.text_cache import TextCache
from danceopd_ext.evaluation.jobs import Job
from danceopd_ext.models.conditions import PromptTensors, TextConditions, edit_item
from danceopd_ext.models.family import Family, Sources
from danceopd_ext.models.loading import Source, encode_prompts, load_text_pipeline
from danceopd_ext.toolkits.native.texts import EMPTY, check_room

REMEDY = "Free some space, choose another --out, or draw fewer prompts (--limit)."


class Conditions:
    """What the text encoders give for a benchmark.

    `size`: of a job's picture, in pixels. `guided`: whether drawing moves away from the empty prompt.
    """

    def __init__(
        self,
        source: Source,
        jobs: Sequence[Job],
        size: Callable[[Job], Size],
        folder: Path,
        dtype: torch.dtype,
        guided: bool,
    ):
        self.source, self.jobs, self.size, self.dtype, self.guided = source, jobs, size, dtype, guided
        precision = str(dtype).removeprefix("torch.")
        key = f"{self.family.name}-{fingerprint(source.text_files)}-{precision}"
        pictures = {job.source_file: job.picture for job in jobs if job.source is not None}
        seen = SourceImages(self.family.title, area=self.family.scaled_area, pictures=pictures)
        self.cache = PromptCache(TextCache(folder, key), seen if self.family.text_sees_sources else None)

    @property
    def family(self) -> Family:
        return self.source.family

    @property
    def _negatives_see_sources(self) -> bool:
        """Whether guidance needs the empty prompt once for each source."""
        return self.guided and self.family.text_sees_sources

    def prompts(self) -> list[Prompt]:
        """All that is encoded, by the trainer's rules: the empty prompt with a source only where it can be used."""
        found, asked = [Prompt(EMPTY)], [self._asked(job) for job in self.jobs]
        if self._negatives_see_sources:
            found += [prompt._replace(text=EMPTY) for prompt in asked if prompt.sources]
        return list(dict.fromkeys([*found, *asked]))

    def _asked(self, job: Job) -> Prompt:
        return job.words._replace(drawn=self.size(job))

    def encode(self, device: torch.device) -> None:
        """Encode all that the cache lacks; then the text encoders are gone from memory.

        Raises UserError when the disk has too little room.
        """
        prompts = self.prompts()
        if not self.cache.missing(prompts):
            return
        self._encode(prompts, load_text_pipeline(self.source, self.dtype, device))
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _encode(self, prompts: list[Prompt], pipeline: Any) -> None:
        jobs = {job.source_file: job for job in self.jobs}

        @torch.no_grad()
        def encode(batch: list[Prompt]) -> list[PromptTensors]:
            texts = [prompt.text for prompt in batch]
            if not self.cache.sees_sources:
                return encode_prompts(self.source, pipeline, texts)
            seen = [Sources([jobs[file].source_image() for file in p.sources], p.drawn) for p in batch]
            return encode_prompts(self.source, pipeline, texts, seen)

        for note in self.cache.notes():
            tqdm.write(f"note: {note}")
        check_room(self.cache, prompts, encode, tqdm.write, REMEDY)
        self.cache.encode_missing(prompts, encode)

    def of(self, job: Job, source_latents: PromptTensors) -> TextConditions:
        """The condition of one picture, on the CPU; `source_latents` of its source, empty where there is none."""
        asked = self._asked(job)
        item = self.cache.get(*asked)
        if source_latents:
            negative = self.cache.get(EMPTY, *asked[1:]) if self._negatives_see_sources else None
            item = edit_item(item, source_latents, negative)
        return TextConditions([item], self.cache.get(EMPTY))
