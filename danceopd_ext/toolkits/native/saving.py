"""Saves the LoRA and the state of a run, and handles disks that refuse them.

A save between steps may fail: the failure is reported and training goes on. The last save tries other folders, and
waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from danceopd_ext.errors import TrainingError
from danceopd_ext.fallback_folders import NotSaved, save_anywhere, save_result, saved_before
from danceopd_ext.toolkits.native.output import Output


@dataclass(frozen=True)
class Saved:
    """What a save has written. state: None if there is none; `missing` then says why, if one was wanted."""

    lora: Path
    state: Path | None = None
    missing: str = ""

    @property
    def way_on(self) -> str:
        """A sentence on how to continue."""
        if self.state:
            return f"Resume with: --resume {self.state}"
        why = f" ({self.missing})" if self.missing else ""
        return f"No state was saved{why}: --network_weights {self.lora} starts a new run from this LoRA."


class Saving:
    """Saves the run's LoRA and state.

    say: prints a line for the user. stopped: returns whether Ctrl-C was pressed. learn: switches to the weights that
    are trained, which a state holds; some optimizers keep others for saving.
    """

    def __init__(
        self, output: Output, say: Callable[[str], None], stopped: Callable[[], bool], learn: Callable[[], None]
    ):
        self.output, self.say, self.stopped, self.learn = output, say, stopped, learn
        self.newest: Saved | None = None
        """The last LoRA that this run wrote, and its state."""
        self.newest_step = 0
        """The step of that LoRA; 0 if there is none."""

    def between(self, step: int, state: bool) -> None:
        """Save the LoRA, then the state; training goes on even if the disk refuses them."""
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
            placed = save_result(write, wanted)
        except NotSaved as error:
            self.say(error.between)
            return None
        self.say(placed.message(wanted))
        return placed.path

    def last(self, step: int, state: bool, final: bool) -> Saved:
        """Save at the end: the LoRA in any folder that takes it, then the state if one does.

        final: use the names without a step. Raises TrainingError if no folder takes the LoRA.
        """
        number = None if final else step
        wanted = self.output.lora_path(number)
        try:
            placed = save_anywhere(lambda path: self.output.write_lora(path, step), wanted, self.say, self.stopped)
        except NotSaved as error:
            before = saved_before(self.newest.lora, self.newest.state) if self.newest else ""
            raise TrainingError(f"{error}.{before}") from error
        self.say(placed.message(wanted))
        self.newest, self.newest_step = Saved(placed.path), step
        if state:
            self.newest = Saved(placed.path, *self._last_state(step, number))
        if state and not self.newest.state:
            self.say(self.newest.way_on)
        return self.newest

    def _last_state(self, step: int, number: int | None) -> tuple[Path | None, str]:
        """Return where the state is, or why there is none."""
        wanted = self.output.state_path(number)
        self.learn()
        try:
            placed = save_result(lambda path: self.output.write_state(path, step), wanted, anywhere=True)
        except NotSaved as error:
            return None, error.problem.reason
        self.say(placed.message(wanted))
        return placed.path, ""
