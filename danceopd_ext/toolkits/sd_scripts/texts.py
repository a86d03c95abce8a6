"""What the toolkit's text encoding strategies give, as the method's condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from danceopd_ext.toolkits.hosted.conditions import Conditions, Entry


class TextAdapter:
    """An adapter whose condition is only texts: the toolkit hands them over as a list, here they get names."""

    #: the names, in the toolkit's order
    texts: ClassVar[tuple[str, ...]]

    def condition(self, texts: Sequence[Entry], routes: list[str], empty: Sequence[Entry] | None = None) -> Conditions:
        """`texts`: of B samples, as they arrive at get_noise_pred_and_target. `empty`: of the empty prompt (B = 1)."""
        return Conditions(self._named(texts), routes, None if empty is None else self._named(empty))

    def _named(self, texts: Sequence[Entry]) -> dict[str, Entry]:
        return dict(zip(self.texts, texts, strict=True))
