"""Runs a toolkit's own `train(args)`, and turns interruptions and full memory or disks into one message."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from danceopd_ext.config.as_used import hosted_preset, name_of
from danceopd_ext.config.hosted_preset import HostedPreset
from danceopd_ext.disk_errors import general_disk_problem
from danceopd_ext.errors import Stopped, TrainingError, UserError, shorten
from danceopd_ext.fallback_folders import saved_before
from danceopd_ext.toolkits.earlier_results import sole_writer
from danceopd_ext.toolkits.hosted.console import introduction, tell
from danceopd_ext.toolkits.hosted.out_of_memory import is_out_of_memory, out_of_memory
from danceopd_ext.toolkits.hosted.progress_bar import route_losses
from danceopd_ext.toolkits.hosted.saved_files import Saved, saved_since
from danceopd_ext.toolkits.launched import is_first_process
from danceopd_ext.toolkits.preset_record import write_record


def run_alone(trainer: Any, args: Namespace, preset: HostedPreset, notes: Sequence[str | None]) -> None:
    """Call `run_trainer` as the only run of its output_name, after printing the notes (None is skipped).

    Raises UserError if another run uses the name, and what `run_trainer` raises.
    """
    options, folder = preset.danceopd, Path(args.output_dir)
    trainer.preset_as_used = hosted_preset(preset, args, name_of)
    with sole_writer(folder, args.output_name, options.overwrite, args.resume) as more:
        for line in filter(None, [*notes, *more, *introduction(options)]):
            tell(line)
        if is_first_process():  # the trainer calls it before its loop: data that is refused leaves no file
            trainer.save_preset = partial(write_record, folder, args.output_name, hosted_preset(preset, args), tell)
        run_trainer(trainer, args)


def saved_lora(trainer: Any, wanted: Path, toolkit: str) -> Path:
    """Return where the LoRA `wanted` was saved. Raises TrainingError if the toolkit ended without one."""
    saved = trainer.session.saves.lora(wanted) if trainer.session else wanted
    if is_first_process() and not saved.is_file():
        raise TrainingError(f"{toolkit} stopped without saving a LoRA. Its own messages above say why.")
    return saved


def run_trainer(trainer: Any, args: Namespace) -> None:
    """Train. The trainer makes its `session` (see session.py) when the toolkit's loop starts; before, it is None.

    Raises Stopped after Ctrl-C and similar requests, and TrainingError if memory or the disk is full. The toolkit's
    other errors pass through.
    """
    start = time.time()
    with route_losses(type(trainer), lambda: trainer.session.shown() if trainer.session else {}):
        try:
            trainer.train(args)
        except (UserError, TrainingError, Stopped):
            raise
        except KeyboardInterrupt:  # a second one, or the first before the loop
            if not trainer.session:
                raise
            raise Stopped(stopped_at_once(max(1, trainer.session.current), saved_since(args, start))) from None
        except Exception as error:
            if problem := general_disk_problem(error):
                told = f"{problem.reason} ({shorten(str(error), 200)}). {problem.remedy}"
                saved = saved_since(args, start)
                raise TrainingError(told + saved_before(saved.lora, saved.state)) from error
            if not is_out_of_memory(error):
                raise
            step = trainer.session.current if trainer.session else 0
            message = out_of_memory(error, args, step, trainer.session is not None, saved_since(args, start))
            raise TrainingError(message) from error
        finally:
            if trainer.session:
                trainer.session.close()


def stopped_at_once(step: int, saved: Saved) -> str:
    """Return the last line of a run that did not finish this step."""
    kept = f"the last saved LoRA is {saved.lora}" if saved.lora else "this run saved nothing"
    return f"stopped at once in step {step}: {kept}. {saved.how_to_continue()}".strip()
