"""Tells which prompts are longer than the model reads: the rest of them is lost, in training as in the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from danceopd_ext.data.plan import Prompt
from danceopd_ext.errors import counted, few, few_letters, readable
from danceopd_ext.models.loading import asked_of
from danceopd_ext.toolkits.native.prepare import Prepared


def long_prompts(prepared: Prepared, pipeline: Any, prompts: Sequence[Prompt]) -> list[str]:
    """Return a note on the prompts that are cut, with the file of each where the prompt is as the file has it.

    `pipeline` holds the tokenizers.
    """
    family = prepared.family
    files = {item.text: item.source for item in prepared.plan.items()}
    cut: dict[str, str] = {}
    for prompt in prompts:
        text = prompt.text
        with asked_of(prepared.source):
            length = family.text_length(pipeline, text)
        room = family.text_room(pipeline, prepared.config, len(prompt.sources))
        if length > room:
            where = files.get(text) or f'"{few_letters(text)}"'
            cut[text] = f"{where} ({room:,} of {length:,} tokens are read)"
    if not cut:
        return []
    count = counted(len(cut), "prompt")
    return [readable(f"note: {family.title} does not read the end of {count}: {few(cut.values())}")]
