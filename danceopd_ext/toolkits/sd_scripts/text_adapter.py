"""Turns the outputs of the toolkit's text encoding strategies into the method's condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from danceopd_ext.toolkits.hosted.conditions import Conditions, Entry
from danceopd_ext.toolkits.hosted.seams import ToolkitChanged


class TextAdapter:
    """An adapter whose condition is only texts: the toolkit passes a list, and here its entries get names.

    texts: the names, in the toolkit's order. more: entries that some versions append and the transformer does not use.
    """

    texts: ClassVar[tuple[str, ...]]
    more: ClassVar[tuple[str, ...]] = ()

    def condition(self, texts: Sequence[Entry], routes: list[str], empty: Sequence[Entry] | None = None) -> Conditions:
        """`texts`: of B samples, as they arrive at get_noise_pred_and_target. `empty`: of the empty prompt (B = 1)."""
        return Conditions(self.named(texts), routes, None if empty is None else self.named(empty))

    def named(self, texts: Sequence[Entry]) -> dict[str, Entry]:
        """Return name -> entry. Raises ToolkitChanged if the length differs, because the order is then unknown."""
        named = named_entries(texts, self.texts, self.more)
        return {name: named[name] for name in self.texts}


def named_entries(texts: Sequence[Entry], names: Sequence[str], more: Sequence[str] = ()) -> dict[str, Entry]:
    """Return a text's entries by `names`; all of `more`, or none, may follow. Raises ToolkitChanged."""
    if len(texts) not in (len(names), len(names) + len(more)):
        raise ToolkitChanged(f"its text encoding gives {len(texts)} entries, not {len(names)} ({', '.join(names)})")
    return dict(zip((*names, *more), texts))  # noqa: B905 - compared above
