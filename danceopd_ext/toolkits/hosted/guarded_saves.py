"""Makes a toolkit's saves as safe as those of the native trainer.

Toolkits write in place, and a full disk ends the run without a result. Both save a LoRA with the network's
`save_weights` and a state with the accelerator's `save_state`. Here these write complete files or none. A save between
steps may fail, and the last one goes to another folder if it must.
"""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from danceopd_ext.disk_errors import DiskProblem, disk_problem
from danceopd_ext.errors import TrainingError
from danceopd_ext.fallback_folders import NotSaved, SavePlace, save_anywhere, save_result, saved_before
from danceopd_ext.files import whole_folder, whole_named_file
from danceopd_ext.toolkits.hosted.console import tell
from danceopd_ext.toolkits.hosted.saved_files import Saved, saved_since
from danceopd_ext.toolkits.hosted.seams import SeamCall

#: the toolkits' arguments for how many saves to keep; None: all
KEEPS = ("save_last_n_steps", "save_last_n_steps_state", "save_last_n_epochs", "save_last_n_epochs_state")


class GuardedSaves:
    """Replaces the network's `save_weights` and the accelerator's `save_state` for one run.

    stopped: returns whether Ctrl-C was pressed. ending: returns whether the run ends after this step. start: when it
    began, in seconds since the epoch.
    """

    def __init__(
        self, args: Namespace, network: Any, accelerator: Any, stopped: Callable[[], bool], ending: Callable[[], bool],
        start: float,
    ):  # fmt: skip
        self.args, self.stopped, self.ending, self.start = args, stopped, ending, start
        self.moved: dict[Path, Path | None] = {}
        """Wanted path -> where it was saved; None if it was not."""
        self._removes: dict[str, Any] = {}
        if "file" in _parameters(getattr(network, "save_weights", None)):
            self._save_weights, network.save_weights = network.save_weights, self.save_weights
        if hasattr(accelerator, "save_state") and not _is_sharded(accelerator):
            self._save_state, accelerator.save_state = accelerator.save_state, self.save_state

    def save_weights(self, *given: Any, **named: Any) -> None:
        """Save a LoRA, in place of the network's own method. Raises TrainingError if the last one fits nowhere."""
        call = SeamCall(self._save_weights, given, named)
        wanted = Path(call["file"])

        def write(path: Path) -> None:
            with whole_named_file(path) as part:
                call.call_original(file=str(part))

        last = self.ending() or wanted.stem == self.args.output_name
        try:
            placed = save_anywhere(write, wanted, tell, self.stopped) if last else save_result(write, wanted)
        except NotSaved as error:
            self.moved[wanted] = None
            if last:
                saved = saved_since(self.args, self.start)
                raise TrainingError(f"{error}.{saved_before(saved.lora, saved.state)}") from error
            self._keep_old(True)
            tell(error.between)
            return
        self._keep_old(False)
        self._note(wanted, placed)

    def save_state(self, output_dir: Any = None, *given: Any, **named: Any) -> Any:
        """Save a state, in place of the accelerator's own method. A state that cannot be saved does not end the run."""
        if output_dir is None:
            return self._save_state(output_dir, *given, **named)
        wanted = Path(output_dir)

        def write(path: Path) -> None:
            with whole_folder(path) as part:
                self._save_state(str(part), *given, **named)

        last = self.ending() or wanted.name == f"{self.args.output_name}-state"
        try:
            placed = save_result(write, wanted, anywhere=last)
        except NotSaved as error:
            self.moved[wanted] = None
            self._keep_old(True)
            tell(f"{error}. No state is saved." if last else error.between)
            return None
        self._note(wanted, placed)
        return str(placed.path)

    def _note(self, wanted: Path, placed: SavePlace) -> None:
        if placed.path != wanted:
            self.moved[wanted] = placed.path
            tell(placed.message(wanted))

    def _keep_old(self, failed: bool) -> None:
        """Keep the toolkit from removing an older file if the new one was not saved."""
        given = vars(self.args)
        for name in KEEPS:
            if failed and given.get(name) is not None:
                self._removes[name] = given[name]
                given[name] = None
            elif not failed and name in self._removes:
                given[name] = self._removes.pop(name)

    def lora(self, wanted: Path) -> Path:
        """Return where the LoRA `wanted` was saved."""
        return self.moved.get(wanted) or wanted

    def of_step(self, step: int, found: Saved) -> Saved:
        """Return what was saved at this step: `found` in output_dir, or in another folder."""
        moved = {path.name: place for path, place in self.moved.items() if place and f"-step{step:08d}" in path.name}
        states = [place for name, place in moved.items() if name.endswith("-state")]
        loras = [place for name, place in moved.items() if not name.endswith("-state")]
        return Saved(found.lora or next(iter(loras), None), found.state or next(iter(states), None))


def _parameters(function: Callable | None) -> list[str]:
    return list(inspect.signature(function).parameters) if function else []


def _is_sharded(accelerator: Any) -> bool:
    """Return whether all processes write the state together, each its own part."""
    kind = str(getattr(accelerator, "distributed_type", "")).upper()
    return "DEEPSPEED" in kind or "FSDP" in kind or "MEGATRON" in kind


class Drawing:
    """Lets the toolkit draw its pictures. A picture that cannot be saved is reported once, and training goes on."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    @contextmanager
    def pictures(self, mend: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Draw inside the block. mend: undoes what the toolkit has begun if it stops halfway."""
        real = Image.Image.save

        def save(image: Image.Image, *given: Any, **named: Any) -> None:
            try:
                real(image, *given, **named)
            except OSError as error:
                self._tell(error)

        Image.Image.save = save
        rng = torch.get_rng_state()
        try:
            yield
        except OSError as error:  # the folder, or the file of prompts
            torch.set_rng_state(rng)
            self._tell(error)
            mend()
        finally:
            Image.Image.save = real

    def _tell(self, error: OSError) -> None:
        """Report a disk error once; raise any other error again."""
        problem: DiskProblem | None = disk_problem(error)
        if problem is None:
            raise error
        if problem.reason not in self._told:
            self._told.add(problem.reason)
            name = f" ({error.filename})" if error.filename else ""
            tell(f"pictures are not saved: {problem.reason}{name}. Training goes on. {problem.remedy}")
