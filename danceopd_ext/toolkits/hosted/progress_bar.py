"""Shows the losses of the routes in the toolkit's own progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

#: what both toolkits call the bar of their training loop
STEPS = "steps"


@contextmanager
def route_losses(trainer: type, losses: Callable[[], Mapping[str, str]]) -> Iterator[None]:
    """Show `losses()` in the bar of the trainer's module inside the block, after the toolkit's own values.

    trainer: the toolkit's class. Both toolkits import tqdm into the module that defines `train`; without that nothing
    changes. The bar is closed at the end, so that a message after an error begins on a new line.
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
    """Return a class of bars; `made` collects the bars of the training loop."""

    class BarWithLosses(bar):
        def __init__(self, *given: Any, **named: Any):
            super().__init__(*given, **named)
            if named.get("desc") == STEPS:
                made.append(self)

        def set_postfix(self, ordered_dict: Any = None, refresh: bool = True, **values: Any) -> None:
            own = losses() if any(one is self for one in made) else {}
            super().set_postfix(ordered_dict, refresh, **{**values, **own})

    return BarWithLosses
