"""Decides the data of a whole run in advance: the route of every step, and the prompts that it sees.

A step follows from (seed, step, the data) alone: it does not depend on the order of the calls, the number of steps of
the run, earlier micro-batches, or the process that calls.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from danceopd_ext.data.captions import caption_is_fixed, draw_caption
from danceopd_ext.data.items import Item, RouteData, Size
from danceopd_ext.data.route_stream import RouteStream
from danceopd_ext.data.route_summary import RouteSummary, summarise
from danceopd_ext.data.route_weights import check_weights
from danceopd_ext.data.seeds import python_rng
from danceopd_ext.errors import UserError
from danceopd_ext.method import draw_route

#: the most samples of an epoch of a route, whose order is kept in memory
LONGEST_EPOCH = 5_000_000


class Prompt(NamedTuple):
    """A caption, the source images that it edits (none for a drawing), and the size of the picture that is drawn.

    Some models scale the source images by this size; without source images it has no meaning.
    """

    text: str
    sources: tuple[Path, ...] = ()
    drawn: Size | None = None


@dataclass(frozen=True)
class MicroBatch:
    """Prompts of one size, and of source images of the same sizes, that go through the model together.

    `item_ids` count the items of the route; `indices` are the places of the samples in the whole optimizer step, from
    0: what is random about a sample comes from (seed, step, that index).
    """

    width: int
    height: int
    texts: tuple[str, ...]
    item_ids: tuple[int, ...]
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def slice(self, rank: int, world_size: int) -> MicroBatch:
        """Return the contiguous share of process `rank`; the shares of all ranks, in order, are the whole."""
        share, rest = divmod(len(self), world_size)
        if rest or not 0 <= rank < world_size:
            raise ValueError(f"a micro-batch of {len(self)} has no share for process {rank} of {world_size}")
        own = slice(rank * share, (rank + 1) * share)
        return MicroBatch(self.width, self.height, self.texts[own], self.item_ids[own], self.indices[own])


@dataclass(frozen=True)
class PlannedStep:
    """One route's part of an optimizer step (with most methods the only part): one or more micro-batches."""

    route: str
    micro_batches: tuple[MicroBatch, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The captions of the whole step, in the order of their indices."""
        return tuple(text for batch in self.micro_batches for text in batch.texts)


class Plan:
    """All steps of a run; `parts(n)` answers for any n >= 0."""

    def __init__(
        self,
        routes: Mapping[str, RouteData],
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        micro_batches: int = 1,
        batch_size: int = 1,
        processes: int = 1,
        every_route: bool = False,
    ) -> None:
        """`micro_batches` are accumulated in one step; `batch_size` is a micro-batch of all processes together.

        `every_route`: each step has a part of every route (with its own `micro_batches`), instead of one drawn route.

        Routes without a weight have weight 1. Raises UserError for wrong weights and for a route that would be drawn
        but has no items.
        """
        if batch_size % processes or min(batch_size, processes, micro_batches) < 1:
            raise ValueError(
                f"{micro_batches} micro-batches of {batch_size} cannot be divided among {processes} processes"
            )
        self.routes = dict(routes)
        self.weights = check_weights(weights or {}, list(routes))
        self.seed, self.micro_batches, self.batch_size, self.processes = seed, micro_batches, batch_size, processes
        self.every_route = every_route
        for name, weight in self.weights.items():
            if weight > 0 and not self.routes[name].items:
                raise UserError(f'the route "{name}" has no data. Give it prompts, or the weight 0.')
            if weight > 0 and (count := sum(item.repeats for item in self.routes[name].items)) > LONGEST_EPOCH:
                raise UserError(
                    f'an epoch of the route "{name}" has {count:,} samples, more than the limit of '
                    f"{LONGEST_EPOCH:,}. Use a "
                    "smaller num_repeats: a route is drawn by its weight in [danceopd.routes], not by its size."
                )
        # Sorted, so that the order of tables in the preset does not matter.
        self._names = sorted(name for name, weight in self.weights.items() if weight > 0)
        self._streams = {name: RouteStream(self.routes[name], seed, batch_size, processes) for name in self._names}
        # For every step so far: its route, and how many steps that route had before.
        self._drawn, self._before = array("L"), array("L")
        self._counts = [0] * len(self._names)

    def notes(self) -> list[str]:
        """Notes on routes whose batches repeat edits, because few of their edits have equal sizes."""
        return [
            f"{name}: its edits have {stream.sizes} different sizes of picture and source images; {stream.repeating} "
            "of these have fewer edits than a batch, so their batches repeat edits. To avoid this: "
            "train_batch_size = 1 with more gradient_accumulation_steps, or source images of fewer sizes"
            for name, stream in self._streams.items()
            if stream.repeating and stream.sizes > 1 and any(item.source_images for item in self.routes[name].items)
        ]

    def parts(self, number: int) -> tuple[PlannedStep, ...]:
        """Return the parts of step `number`, counted from 0: the drawn route's, or by name those of every route.

        The same number gives the same parts, whatever was asked before.
        """
        if not self.every_route:
            return (self._part(*self._place(number), number, 0),)
        found: list[PlannedStep] = []
        first = 0
        for name in self._names:
            found.append(self._part(name, number, number, first))
            first += len(found[-1].texts)
        return tuple(found)

    def step(self, number: int) -> PlannedStep:
        """Return step `number` of a plan whose steps have one route each."""
        (part,) = self.parts(number)
        return part

    def _part(self, name: str, before: int, number: int, first: int) -> PlannedStep:
        """Return a route's part of step `number`, after `before` earlier parts; its samples count from `first`."""
        stream = self._streams[name]
        batches = []
        for k in range(self.micro_batches):
            batch = stream.batch(before * self.micro_batches + k)
            indices = tuple(range(first, first + len(batch.item_ids)))
            texts = tuple(
                self._caption(stream.data.items[item], number, index, batch.epoch)
                for item, index in zip(batch.item_ids, indices, strict=True)
            )
            batches.append(MicroBatch(*batch.size, texts, batch.item_ids, indices))
            first += len(indices)
        return PlannedStep(name, tuple(batches))

    def route(self, number: int) -> str:
        """Return the route drawn for step `number` without drawing its captions."""
        return self._place(number)[0]

    def steps(self, stop: int, start: int = 0) -> Iterator[PlannedStep]:
        """Yield the parts of the steps from `start` up to, not including, `stop`."""
        return (part for number in range(start, stop) for part in self.parts(number))

    def items(self) -> Iterator[Item]:
        """Yield the items of all routes that have a part in the run, by route."""
        return (item for name in self._names for item in self.routes[name].items)

    def all_prompts(self, num_steps: int, start: int = 0) -> list[Prompt]:
        """Return every caption that the steps from `start` to `num_steps` use, in the order of first use.

        A caption comes once with each set of source images and each size.
        """
        found: dict[Prompt, None] = {}
        every = self._every_prompt()
        for part in self.steps(num_steps, start):
            if len(found) == every:
                break
            items = self.routes[part.route].items
            for batch in part.micro_batches:
                pairs = zip(batch.texts, batch.item_ids, strict=True)
                found |= dict.fromkeys(Prompt(t, items[i].source_images, items[i].size) for t, i in pairs)
        return list(found)

    def _every_prompt(self) -> int | None:
        """How many prompts there are if captions are fixed; None if they change from draw to draw."""
        items = list(self.items())
        if not all(caption_is_fixed(item) and not item.rules.caption_dropout_every_n_epochs for item in items):
            return None
        return len({(draw_caption(item, _NO_CHANCE, 1), item.source_images, item.size) for item in items})

    def all_texts(self, num_steps: int, start: int = 0) -> list[str]:
        """Return every caption that the steps from `start` to `num_steps` use, once each, in the order of first use."""
        return list(dict.fromkeys(prompt.text for prompt in self.all_prompts(num_steps, start)))

    def summary(self) -> list[RouteSummary]:
        """Return, for every route in the order given, how many prompts and sizes it has and how often it is drawn."""
        total = sum(self.weights.values())
        weights = self.weights.items()
        return [summarise(self.routes[name], weight, weight / total, self.every_route) for name, weight in weights]

    def check_sizes(self, multiple: int, minimum: int = 1, maximum: int | None = None) -> None:
        """Raise UserError unless the model takes every width and height (in pixels)."""

        def nearest_side(side: int) -> int:
            low = -(-minimum // multiple) * multiple
            high = maximum // multiple * multiple if maximum else side + multiple
            return max(low, min(high, (side + multiple // 2) // multiple * multiple))

        wrong = [
            item
            for data in self.routes.values()
            for item in data.items
            if tuple(map(nearest_side, item.size)) != item.size
        ]
        if wrong:
            item = wrong[0]
            width, height = map(nearest_side, item.size)
            limits = f", from {minimum}" if minimum > 1 else ""
            limits += f", up to {maximum}" if maximum else ""
            more = f" ({len(wrong)} items have such a size)" if len(wrong) > 1 else ""
            raise UserError(
                f"{item.where or 'the data'}: {item.width}x{item.height} is not a size that this model takes{more}: "
                f"sides must be multiples of {multiple}{limits}. The nearest is {width}x{height}: change resolution, "
                "bucket_reso_steps, or the size given with the prompt."
            )

    def fingerprint(self) -> str:
        """Return a short hash of everything that determines the steps, for the check on resuming."""
        words = [
            self.seed,
            self.micro_batches,
            self.batch_size,
            self.processes,
            sorted(self.weights.items()),
            self.every_route,
        ]
        digest = hashlib.sha256(repr(words).encode())
        for name in self._names:
            for item in self.routes[name].items:
                facts = (name, item.text, item.size, item.rules, item.repeats, item.batch_size, item.source_sizes)
                digest.update(repr(facts).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()[:16]

    def _place(self, number: int) -> tuple[str, int]:
        """Return the route of a step, and how many earlier steps that route had."""
        if number < 0:
            raise ValueError(f"there is no step {number}")
        for step in range(len(self._drawn), number + 1):
            drawn = self._names.index(draw_route(self.weights, self.seed, step))
            self._drawn.append(drawn)
            self._before.append(self._counts[drawn])
            self._counts[drawn] += 1
        return self._names[self._drawn[number]], self._before[number]

    def _caption(self, item: Item, step: int, index: int, epoch: int) -> str:
        # A caption without randomness needs no generator, and most captions have none.
        rng = _NO_CHANCE if caption_is_fixed(item) else python_rng(self.seed, "caption", step, index)
        return draw_caption(item, rng, epoch)


_NO_CHANCE = python_rng(0)
