"""The counts of a campaign."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

COLUMNS = ("killed", "resumed equal", "asked to stop", "ended with 130", "resumed equal after it", "done before")


@dataclass
class Tally:
    """What became of the runs of one configuration. problems: what must not be, each in a line."""

    name: str
    counts: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def row(self) -> str:
        return "| " + " | ".join([self.name, *(str(self.counts[column]) for column in COLUMNS)]) + " |"
