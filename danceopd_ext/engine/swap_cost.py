"""Estimates what swapped blocks cost: how many samples the device must compute for their transfer to be hidden.

One pass of the weights serves all samples that are computed together, so the transfer costs no time if they take
longer than it does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from danceopd_ext.engine.block_swap import travelling

#: bytes a second from pinned memory over 16 lanes of PCI Express 4.0, as bandwidth tests of such cards give them
PCI_EXPRESS_4 = 24e9


def moved(sizes: Sequence[int], swapped: int) -> int:
    """Return how many bytes travel in one pass over blocks of these `sizes` with `swapped` of them in main memory."""
    return sum(sizes[number] for number in travelling(len(sizes), swapped))


def samples_that_hide(
    bytes_moved: float, flops_per_sample: float, flops_per_second: float, bytes_per_second: float = PCI_EXPRESS_4
) -> int:
    """Return how many samples must be computed together for the transfer of one pass to take no time of its own.

    flops_per_sample: of one forward of one sample; in the gradient pass, a recomputation and a backward, three times
    that, hide the same transfer. flops_per_second: what the device reaches, not its largest number.
    """
    return max(1, math.ceil(bytes_moved / bytes_per_second / (flops_per_sample / flops_per_second)))


def seconds_lost(bytes_moved: float, seconds_of_samples: float, bytes_per_second: float = PCI_EXPRESS_4) -> float:
    """Return the seconds that a pass takes longer because of the transfer, 0 if the samples hide it.

    seconds_of_samples: what the samples that are computed together take without it.
    """
    return max(0.0, bytes_moved / bytes_per_second - seconds_of_samples)
