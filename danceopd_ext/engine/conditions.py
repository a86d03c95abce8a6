"""Encoded prompts and source images -> the conditions that velocity fields take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from danceopd_ext.data.latent_cache import LatentCache, SourceCache
from danceopd_ext.data.plan import Prompt
from danceopd_ext.data.prompt_cache import PromptCache
from danceopd_ext.engine.model import Model
from danceopd_ext.engine.prompts import EMPTY
from danceopd_ext.models.conditions import SOURCE, PromptTensors, TextConditions, edit_item


@dataclass(frozen=True)
class Encodings:
    """What was encoded before a model is asked, on disk.

    `source_latents`: of source images, None if no prompt has one. `pictures`: of the pictures that a method starts
    from, None if it uses none.
    """

    prompts: PromptCache
    source_latents: SourceCache | None = None
    pictures: LatentCache | None = None


class Conditions:
    """Gives the condition of prompts that were encoded."""

    def __init__(self, model: Model, encodings: Encodings):
        self.device, self.prompts, self.source_latents = model.device, encodings.prompts, encodings.source_latents

    def of(self, prompts: Sequence[Prompt], negative: str | None = EMPTY) -> TextConditions:
        """Return the conditions of these prompts with their source images, on the device.

        `negative` is what guidance moves away from; None if nothing is guided. Raises NoEntry for what was not
        encoded.
        """
        items = [self._of(prompt, negative) for prompt in prompts]
        # if the empty prompt shows the source image, each edit has an empty prompt of its own
        shared = not self.prompts.sees_sources or any(not prompt.sources for prompt in prompts)
        empty = self.prompts.get(negative or EMPTY) if shared else {}
        return TextConditions(items, empty).to(self.device)

    def _of(self, prompt: Prompt, negative: str | None) -> PromptTensors:
        found = self.prompts.get(*prompt)
        if not prompt.sources:
            return found
        latents = {f"{SOURCE}{i}": self.source_latents.get(p, prompt.drawn) for i, p in enumerate(prompt.sources)}
        own_empty = self.prompts.sees_sources and negative is not None
        return edit_item(found, latents, self.prompts.get(negative, *prompt[1:]) if own_empty else None)
