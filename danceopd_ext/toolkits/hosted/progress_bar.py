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
    left as it is. The bar is closed at the end, so that what is said after an error begins on a line of its own.
    """
    module = trainer.train.__globals__
    before = module.get("tqdm")
    if not isinstance(before, type):
        yield
        return
    bars: list[Any] = []
    module["tqdm"] = _with_losses(before, losses, bars)
    try:
        yield
    finally:
        module["tqdm"] = before
        for bar in bars:
            bar.close()


def _with_losses(bar: type, losses: Callable[[], Mapping[str, str]], made: list[Any]) -> type:
    """The kind of bar, for which `made` will list those of the training loop."""

    class BarWithLosses(bar):
        def __init__(self, *given: Any, **named: Any):
            super().__init__(*given, **named)
            if named.get("desc") == STEPS:
                made.append(self)

        def set_postfix(self, ordered_dict: Any = None, refresh: bool = True, **values: Any) -> None:
            own = losses() if any(one is self for one in made) else {}
            super().set_postfix(ordered_dict, refresh, **{**values, **own})

    return BarWithLosses
