"""Runs work without gradients in batches as large as memory allows."""

from __future__ import annotations

from collections.abc import Callable

import torch


def run_in_chunks(work: Callable[[list[int]], torch.Tensor], count: int, size: int | None) -> torch.Tensor:
    """Call `work` on the rows 0..count-1, at most `size` at a time (None: all), and join the results.

    If the device runs out of memory, the size is halved and the chunk repeated; a single row that does not fit raises
    torch.OutOfMemoryError.
    """
    size = min(size or count, count)
    results: list[torch.Tensor] = []
    done = 0
    while done < count:
        rows = list(range(done, min(done + size, count)))
        try:
            results.append(work(rows))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = (size + 1) // 2
            torch.cuda.empty_cache()
            continue
        done += len(rows)
    return torch.cat(results)
