"""When a run saves, and what happens if the disk does not take it.

A save between steps may fail: it is told, and training goes on. The last one tries other places, and waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from danceopd_ext.elsewhere import NoPlace, put, put_somewhere, saved_before
from danceopd_ext.errors import TrainingError
from danceopd_ext.toolkits.native.output import Output


@dataclass(frozen=True)
class Saved:
    """What a save has written. state: None if there is none; `missing` says why, if it was wanted."""

    lora: Path
    state: Path | None = None
    missing: str = ""

    @property
    def way_on(self) -> str:
        """A sentence on how to go on from here."""
        if self.state:
            return f"Resume with: --resume {self.state}"
        why = f" ({self.missing})" if self.missing else ""
        return f"No state is saved{why}: --network_weights {self.lora} starts a new run from this LoRA."


class Saving:
    """Saves the run's LoRA and state.

    say: tells the user a line. stopped: whether Ctrl-C was pressed. learn: takes the weights that are learnt with,
    which a state holds; some optimizers keep others to save.
    """

    def __init__(
        self, output: Output, say: Callable[[str], None], stopped: Callable[[], bool], learn: Callable[[], None]
    ):
        self.output, self.say, self.stopped, self.learn = output, say, stopped, learn
        self.newest: Saved | None = None
        """The last LoRA of this run that was written, and the state with it."""
        self.newest_step = 0
        """The step that it is of; 0 if there is none."""

    def between(self, step: int, state: bool) -> None:
        """A save after which training goes on, whatever the disk does: the LoRA, then the state."""
        lora = self._try(lambda path: self.output.write_lora(path, step), self.output.lora_path(step))
        made = None
        if state:
            self.learn()
            made = self._try(lambda path: self.output.write_state(path, step), self.output.state_path(step))
        if lora:
            self.newest, self.newest_step = Saved(lora, made), step
            self.output.forget_loras(step)
        if made:
            self.output.forget_states(step)

    def _try(self, write: Callable[[Path], object], wanted: Path) -> Path | None:
        try:
            placed = put(write, wanted)
        except NoPlace as error:
            self.say(error.between)
            return None
        self.say(placed.told(wanted))
        return placed.path

    def last(self, step: int, state: bool, final: bool) -> Saved:
        """The save at the end: the LoRA in whatever place takes it, then the state if one does.

        final: under the names without a step. Raises TrainingError if no place takes the LoRA.
        """
        number = None if final else step
        wanted = self.output.lora_path(number)
        try:
            placed = put_somewhere(lambda path: self.output.write_lora(path, step), wanted, self.say, self.stopped)
        except NoPlace as error:
            before = saved_before(self.newest.lora, self.newest.state) if self.newest else ""
            raise TrainingError(f"{error}.{before}") from error
        self.say(placed.told(wanted))
        self.newest, self.newest_step = Saved(placed.path), step
        if state:
            self.newest = Saved(placed.path, *self._last_state(step, number))
        if state and not self.newest.state:
            self.say(self.newest.way_on)
        return self.newest

    def _last_state(self, step: int, number: int | None) -> tuple[Path | None, str]:
        """Where the state is, or why there is none."""
        wanted = self.output.state_path(number)
        self.learn()
        try:
            placed = put(lambda path: self.output.write_state(path, step), wanted, anywhere=True)
        except NoPlace as error:
            return None, error.problem.reason
        self.say(placed.told(wanted))
        return placed.path, ""
