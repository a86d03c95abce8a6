"""Reports prompts that are longer than the model reads: their end is lost, in training as in the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from danceopd_ext.data.plan import Prompt
from danceopd_ext.engine.model import Model
from danceopd_ext.errors import counted, few, readable, shorten
from danceopd_ext.models.text_pipeline import asked_of


def long_prompts(model: Model, pipeline: Any, prompts: Sequence[Prompt], files: Mapping[str, str]) -> list[str]:
    """Return a note on the prompts that are cut.

    `pipeline` holds the tokenizers. `files`: prompt -> the file that it is in, if it is there word for word.
    """
    family = model.family
    cut: dict[str, str] = {}
    for prompt in prompts:
        text = prompt.text
        with asked_of(model.files):
            length = family.text_length(pipeline, text)
        room = family.text_room(pipeline, model.config, len(prompt.sources))
        if length > room:
            where = files.get(text) or f'"{shorten(text)}"'
            cut[text] = f"{where} ({room:,} of {length:,} tokens are read)"
    if not cut:
        return []
    count = counted(len(cut), "prompt")
    return [readable(f"note: {family.title} does not read the end of {count}: {few(cut.values())}")]
