"""Gives the endless sequence of batches of one route: epochs without replacement, one picture size per batch.

Every batch follows from (seed, route, its number) alone, so no state of earlier batches is kept.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass

from danceopd_ext.data.items import RouteData, Size
from danceopd_ext.data.seeds import python_rng

_EPOCHS_KEPT = 2


@dataclass(frozen=True)
class Batch:
    """Items of one size; `item_ids` count the route's items from 0, `epoch` counts from 1."""

    size: Size
    item_ids: tuple[int, ...]
    epoch: int


class RouteStream:
    """Batches of one route.

    In an epoch every item appears as often as it repeats. Items of one size, one batch size and equally many source
    images of the same sizes form a bucket, which is shuffled and cut into batches; the last batch is filled up from the
    start of the same shuffled bucket. The batches of an epoch are shuffled across the buckets. Of the buckets, `sizes`
    in all, `repeating` have fewer items than a batch, so that theirs hold an item more than once.
    """

    def __init__(self, data: RouteData, seed: int, batch_size: int, processes: int = 1) -> None:
        """`batch_size` is for all processes together; an item's own batch size is per process."""
        self.data = data
        self._seed = seed
        buckets: dict[tuple[int, int, int, tuple[Size, ...]], array] = {}
        for index, item in enumerate(data.items):
            size = item.batch_size * processes if item.batch_size else batch_size
            bucket = buckets.setdefault((item.width, item.height, size, item.source_sizes), array("L"))
            bucket.extend([index] * item.repeats)
        # Sorted, so that an epoch does not depend on the order of sizes in the files.
        self._buckets = sorted(buckets.items())
        self.batches_per_epoch = sum(-(-len(ids) // key[2]) for key, ids in self._buckets)
        self.sizes = len(self._buckets)
        self.repeating = sum(len(set(ids)) < key[2] for key, ids in self._buckets)
        self._epochs: OrderedDict[int, tuple[list[array], array]] = OrderedDict()

    def batch(self, number: int) -> Batch:
        """Return the batch with this number, counted from 0 without end."""
        epoch, position = divmod(number, self.batches_per_epoch)
        shuffled, order = self._epoch(epoch)
        index, start = order[2 * position], order[2 * position + 1]
        width, height, size, _ = self._buckets[index][0]
        ids = shuffled[index]
        chosen = tuple(ids[(start + offset) % len(ids)] for offset in range(size))
        return Batch((width, height), chosen, epoch + 1)

    def _epoch(self, epoch: int) -> tuple[list[array], array]:
        """Return the shuffled buckets of an epoch, and bucket and start of each of its batches, one after another."""
        if epoch in self._epochs:
            self._epochs.move_to_end(epoch)
            return self._epochs[epoch]
        shuffled = []
        batches = []
        for index, ((width, height, size, sources), ids) in enumerate(self._buckets):
            own = array("L", ids)
            words = (width, height, size, *(side for source in sources for side in source))
            python_rng(self._seed, "items", self.data.route, epoch, *words).shuffle(own)
            shuffled.append(own)
            batches += [(index, start) for start in range(0, len(own), size)]
        python_rng(self._seed, "batches", self.data.route, epoch).shuffle(batches)
        order = array("L", [number for batch in batches for number in batch])
        self._epochs[epoch] = shuffled, order
        if len(self._epochs) > _EPOCHS_KEPT:
            self._epochs.popitem(last=False)
        return self._epochs[epoch]
