"""Keeps encoded prompts on disk, each with the source images that its text encoder saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from danceopd_ext.data.items import Size
from danceopd_ext.data.plan import Prompt
from danceopd_ext.data.source_images import SourceImages
from danceopd_ext.data.text_cache import Encoded, TextCache


class PromptCache:
    """Encoded prompts of one model.

    `sources`: what is known of source images, for a model whose text encoder sees them; None if it does not, so
    that a prompt is one entry whatever it edits. An entry is found by the text and by what the source images show.
    """

    def __init__(self, entries: TextCache, sources: SourceImages | None = None) -> None:
        self.entries, self.sources = entries, sources

    @property
    def folder(self) -> Path:
        return self.entries.folder

    @property
    def sees_sources(self) -> bool:
        """Return whether entries depend on source images."""
        return self.sources is not None

    def key(self, prompt: Prompt) -> str:
        """Return the words that identify an entry. A caption has no line break, so no two prompts share them."""
        if self.sources is None:
            return prompt.text
        return "\n".join([prompt.text, *(self.sources.shown(path, prompt.drawn) for path in prompt.sources)])

    def path(self, prompt: Prompt) -> Path:
        """Return the path of the entry of a prompt."""
        return self.entries.path(self.key(prompt))

    def notes(self) -> list[str]:
        """Return notes on entries that `missing` found and that cannot be used."""
        return self.entries.notes()

    def missing(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        """Return the prompts without a usable entry, one for each missing entry, in order."""
        of = self._by_key(prompts)
        return [of[key] for key in self.entries.missing(of)]

    def get(self, text: str, sources: Sequence[Path] = (), drawn: Size | None = None) -> Encoded:
        """Return the tensors of a prompt (see plan.Prompt), on the CPU. Raises NoEntry if no entry is sound."""
        return self.entries.get(self.key(Prompt(text, tuple(sources), drawn)))

    def encode_missing(
        self,
        prompts: Iterable[Prompt],
        encode: Callable[[list[Prompt]], Sequence[Mapping[str, Tensor]]],
        batch_size: int = 1,
        progress: bool = True,
    ) -> int:
        """Encode every prompt that has no entry yet, `batch_size` at a time, and return how many there were."""
        of = self._by_key(prompts)

        def encode_keys(keys: list[str]) -> Sequence[Mapping[str, Tensor]]:
            return encode([of[key] for key in keys])

        return self.entries.encode_missing(of, encode_keys, batch_size, progress)

    def estimate(self, count: int, example: Mapping[str, Tensor]) -> int:
        """Return about how many bytes on disk `count` entries like `example` take."""
        return self.entries.estimate(count, example)

    def _by_key(self, prompts: Iterable[Prompt]) -> dict[str, Prompt]:
        found: dict[str, Prompt] = {}
        for prompt in prompts:
            found.setdefault(self.key(prompt), prompt)
        return found
