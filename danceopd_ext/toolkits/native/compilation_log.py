"""Reports what torch.compile compiles while a run goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from danceopd_ext.engine.compiling import Compilations

#: updates of a route in which everything that it needs should have been compiled
FIRST = 3


class CompilationLog:
    """Says each time something was compiled; says it as a note when that was not to be expected any more."""

    def __init__(self, compilations: Compilations | None, say: Callable[[str], None]):
        """compilations: of the run; None if it compiles nothing."""
        self.compilations, self.say = compilations, say
        self.told = 0
        self.updates: Counter[str] = Counter()

    def entry(self) -> dict[str, int]:
        """Return what a record of the log says of it."""
        return {"compilations": self.compilations.count} if self.compilations else {}

    def step(self, number: int, route: str) -> None:
        """Report what was compiled in this update of the route."""
        self.updates[route] += 1
        self._tell(f"in step {number}", self.updates[route] > FIRST)

    def pictures(self) -> None:
        """Report what was compiled since the last update, to draw pictures."""
        self._tell("to draw pictures", late=False)

    def _tell(self, when: str, late: bool) -> None:
        if not self.compilations or self.compilations.count == self.told:
            return
        new, self.told = self.compilations.count - self.told, self.compilations.count
        line = f"torch_compile: {new} compiled {when}, {self.told} in all"
        more = ". A picture size, a number of samples or an adapter is new; each costs seconds to minutes"
        self.say(f"note: {line}{more}" if late else line)
