"""Holds a toolkit's batch as the method's condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

#: a tensor [B, ...], a list of B tensors (texts of different lengths), or nothing
Entry = torch.Tensor | list | None


@dataclass(frozen=True)
class Conditions:
    """The toolkit's encodings of B samples, under the names that its adapter reads (see method.Condition).

    `routes`: the teacher of each sample. `empty`: the entries for the empty prompt, for one sample (B = 1), if they
    differ; entries that it lacks, such as source images, are the same without text.
    """

    entries: Mapping[str, Entry]
    routes: list[str]
    empty: Mapping[str, Entry] | None = None
    captions: Sequence[str] = ()
    """Of the samples, for messages; empty if the toolkit does not pass them."""

    def __len__(self) -> int:
        return len(self.routes)

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def select(self, indices: Sequence[int]) -> Conditions:
        rows = list(indices)
        if rows == list(range(len(self))):
            return self
        chosen = {name: _rows(entry, rows) for name, entry in self.entries.items()}
        return replace(
            self,
            entries=chosen,
            routes=[self.routes[row] for row in rows],
            captions=[self.captions[row] for row in rows] if self.captions else (),
        )

    def unconditional(self) -> Conditions:
        if self.empty is None:
            raise RuntimeError("guidance needs the empty prompt, which was not encoded")
        count = len(self)
        repeated = {name: _rows(entry, [0] * count) for name, entry in self.empty.items()}
        return replace(self, entries={**self.entries, **repeated})


def _rows(entry: Entry, rows: list[int]) -> Entry:
    if entry is None:
        return None
    return [entry[row] for row in rows] if isinstance(entry, list) else entry[rows]


def routes_of(conditions: Conditions) -> list[str]:
    """Return the route of each sample, for method.by_route."""
    return conditions.routes
