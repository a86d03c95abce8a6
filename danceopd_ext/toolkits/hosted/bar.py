"""The losses of the routes in the toolkit's own progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

#: how both toolkits call the bar of their training loop
STEPS = "steps"


@contextmanager
def route_losses(trainer: type, losses: Callable[[], Mapping[str, str]]) -> Iterator[None]:
    """Inside, the bar that the trainer's module makes shows `losses()` beside what the toolkit shows.

    trainer: the toolkit's class. Both toolkits import tqdm into the module in which `train` is; one that does not is
    left as it is.
    """
    module = trainer.train.__globals__
    before = module.get("tqdm")
    if not isinstance(before, type):
        yield
        return
    module["tqdm"] = _with_losses(before, losses)
    try:
        yield
    finally:
        module["tqdm"] = before


def _with_losses(bar: type, losses: Callable[[], Mapping[str, str]]) -> type:
    class BarWithLosses(bar):
        def set_postfix(self, ordered_dict: Any = None, refresh: bool = True, **values: Any) -> None:
            own = losses() if (getattr(self, "desc", None) or "").startswith(STEPS) else {}
            super().set_postfix(ordered_dict, refresh, **{**values, **own})

    return BarWithLosses
