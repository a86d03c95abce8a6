"""Runs the training loop: update, save, draw, stop."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import release_memory

from danceopd_ext.config.method_options import method_options
from danceopd_ext.data.text_cache import NoEntry
from danceopd_ext.engine.batches import StepData
from danceopd_ext.errors import Stopped, TrainingError, UserError, first_line
from danceopd_ext.finite import first_broken, is_finite
from danceopd_ext.method import METHODS, Report, Step, Student, derive_seed
from danceopd_ext.toolkits.nan_search import RATE
from danceopd_ext.toolkits.native.build import Fields
from danceopd_ext.toolkits.native.journal import Journal
from danceopd_ext.toolkits.native.nan_search import blame
from danceopd_ext.toolkits.native.optimizers import (
    is_schedule_free,
    learning_rate,
    optimizer_of,
    set_learning_rate,
)
from danceopd_ext.toolkits.native.output import Output
from danceopd_ext.toolkits.native.planned import advice
from danceopd_ext.toolkits.native.previews import Abandoned, Previews
from danceopd_ext.toolkits.native.processes import any_process, average_gradients, whole_report
from danceopd_ext.toolkits.native.resuming import read_state
from danceopd_ext.toolkits.native.run_plan import STUDENT, RunPlan
from danceopd_ext.toolkits.native.saving import Saved, Saving
from danceopd_ext.toolkits.native.stop import StopRequest

OUT_OF_MEMORY = (
    "Set gradient_checkpointing = true, train_batch_size = 1 (with more gradient_accumulation_steps), "
    'rollout_batch_size = 1, quantize = "int8", blocks_to_swap or a smaller resolution, and close other programs that '
    "use the GPU."
)
NOTHING_LEARNT = (
    "note: {} changes nothing, because the student has learnt nothing so far: every teacher already gives "
    "the student's velocities, or the learning rate or its warm-up leaves the weights unchanged"
)
NO_PREVIEWS = (
    "no pictures of step {}: out of GPU memory. Previews are turned off for the rest of the run; training goes on. Use "
    "smaller pictures (--w and --h in sample_prompts), or remove sample_prompts."
)


class Run:
    """The training loop and its state."""

    def __init__(
        self,
        plan: RunPlan,
        accelerator: Accelerator,
        fields: Fields,
        data: StepData,
        trackers: Mapping[str, str] | None = None,
    ):
        """trackers: the ids of this run in its trackers, which its states remember."""
        preset = plan.preset
        self.plan, self.preset = plan, preset
        self.accelerator, self.fields, self.data = accelerator, fields, data
        self.parameters = fields.adapters.student_parameters()
        optimizer, self.schedule = optimizer_of(preset, accelerator.device)(self.parameters)
        self.optimizer = accelerator.prepare(optimizer)
        self.output = Output(plan, fields.adapters, self.optimizer_state, trackers or {})
        self.update = METHODS[preset.danceopd.method].update
        self.options = method_options(preset.danceopd)
        self.step, self.total = 0, preset.training.max_train_steps
        if plan.resume:
            self.restore()
        self.first = self.step
        """The steps that earlier runs did."""
        self.journal = Journal(preset, accelerator, self.step, fields.compilations)
        self.stop = StopRequest(self.save_at_once)
        self.whole = threading.RLock()
        """Held while weights, optimizer and step count do not match, or are being saved."""
        self.saving = Saving(self.output, self.journal.say, lambda: self.stop.requested, lambda: self.learn(True))
        self.previews = None
        if plan.previews:
            self.previews = Previews(plan, fields, data.conditions, lambda: self.stop.requested)
        self.learnt_with: list[torch.Tensor] = []

    def go(self) -> Path:
        """Run to max_train_steps and return the path of the last LoRA written.

        Raises Stopped after a request to stop: what was learnt is saved, unless a second request followed.
        """
        with self.stop, self.journal.bar:  # a message after an error begins on a new line
            try:
                return self.steps()
            except KeyboardInterrupt:
                raise Stopped(self.what_is_left()) from None

    def steps(self) -> Path:
        sampling, saving = self.preset.sampling, self.preset.saving
        if sampling.sample_at_first and self.step == 0:
            self.preview()
            self.stop_if_asked()
        while self.step < self.total:
            self.one_step()
            if self.step == self.total:
                break
            self.stop_if_asked()
            if _due(self.step, saving.save_every_n_steps):
                self.save(saving.save_state)
            if _due(self.step, sampling.sample_every_n_steps):
                self.preview()
                self.stop_if_asked()
        return self.finish()

    def one_step(self) -> None:
        """Take one optimizer step: the method's gradient, averaged, clipped and applied."""
        self.learn(True)
        report = whole_report(self.accelerator, self.gradient())
        with self.journal.clock("optimizer"):
            norm = self.average_and_clip()
        if not math.isfinite(report.loss) or not (math.isfinite(norm) or self.accelerator.scaler):
            self.stop_for_nan(report)
        rate = learning_rate(self.optimizer)
        with self.whole:
            with self.journal.clock("optimizer"):
                self.change_weights()
            if not self.accelerator.optimizer_step_was_skipped:
                self.schedule.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.output.forwards += report.forwards
        self.journal.record(self.step, report, report.loss, rate, norm)

    def gradient(self) -> Report:
        """The method's update: forwards and backwards."""
        torch.manual_seed(derive_seed(self.preset.training.seed, "dropout", self.step, self.accelerator.process_index))
        try:
            student = Student(field=self.fields.student, backward=self.accelerator.backward)
            return self.update(self.step_of_method(), self.data.plan.weights, self.data, self.fields.teachers, student)
        except torch.OutOfMemoryError as error:
            saved = self.keep_alone()
            remedy = advice(self.plan, OUT_OF_MEMORY)
            raise TrainingError(f"out of GPU memory in step {self.step + 1}.{saved} {remedy}") from error
        except torch._dynamo.exc.TorchDynamoException as error:
            raise TrainingError(
                f"torch_compile: step {self.step + 1} cannot be compiled ({first_line(error)}). Remove torch_compile."
                f"{self.keep_alone()}"
            ) from error
        except (NoEntry, OSError) as error:  # the cache's disk is gone
            raise TrainingError(
                f"step {self.step + 1} cannot read its data: {error}. Was a disk or the folder removed?"
                f"{self.keep_alone()}"
            ) from error

    def step_of_method(self) -> Step:
        """The step to come, as the method sees it."""
        seed, device = self.preset.training.seed, self.accelerator.device
        return Step(options=self.options, seed=seed, number=self.step, device=device, stage=self.journal.clock)

    def keep_alone(self) -> str:
        """Do `keep_what_is_good`, unless other processes wait in their own step: they cannot save together then."""
        alone = self.accelerator.num_processes == 1
        return self.keep_what_is_good() if alone else " Nothing was saved: go on from an earlier state."

    def change_weights(self) -> None:
        """Take the optimizer's step; the first one creates its state."""
        try:
            self.optimizer.step()
        except torch.OutOfMemoryError as error:
            remedy = advice(self.plan, f'Set optimizer_type = "AdamW8bit" or a smaller network_dim. {OUT_OF_MEMORY}')
            raise TrainingError(
                f"out of GPU memory for the optimizer in step {self.step + 1}. Its change of the weights is half done "
                f"and not saved: go on from an earlier state, or start again. {remedy}"
            ) from error

    def average_and_clip(self) -> float:
        """Average the gradient over the processes, clip it, and return its norm before clipping."""
        average_gradients(self.accelerator, self.parameters)
        limit = self.preset.optimizer.max_grad_norm or math.inf
        return float(self.accelerator.clip_grad_norm_(self.parameters, limit))

    def learn(self, wanted: bool) -> None:
        """Schedule-free optimizers keep two sets of weights: one to learn with, one to save and draw with.

        Switching there and back rounds, so the first set is kept: a save changes nothing.
        """
        if not is_schedule_free(self.optimizer):
            return
        with self.whole, torch.no_grad():
            if not wanted and not self.learnt_with and self.optimizer.param_groups[0].get("train_mode", True):
                self.learnt_with = [p.clone() for p in self.parameters]
            self.optimizer.train() if wanted else self.optimizer.eval()
            if wanted and self.learnt_with:
                for p, kept in zip(self.parameters, self.learnt_with, strict=True):
                    p.copy_(kept)
                self.learnt_with = []

    def save(self, state: bool) -> None:
        """Save the LoRA, and the state if wanted, on the main process; training goes on even if that fails."""
        self.ready_to_save()
        if self.accelerator.is_main_process:
            with self.whole:
                self.saving.between(self.step, state)
        self.accelerator.wait_for_everyone()
        self.journal.pause()

    def save_at_end(self, state: bool, final: bool = False) -> Saved:
        """Save for the last time, in another folder if need be. Raises TrainingError if no folder takes the LoRA."""
        self.ready_to_save(final)
        number = None if final else self.step
        saved = Saved(self.output.lora_path(number), self.output.state_path(number) if state else None)
        if self.accelerator.is_main_process:
            with self.whole:
                saved = self.saving.last(self.step, state, final)
        self.accelerator.wait_for_everyone()
        self.journal.pause()
        return saved

    def check_weights(self) -> None:
        """Raise TrainingError if the last step broke the weights, instead of saving them as a result."""
        if broken := first_broken(self.fields.adapters.state_dict(STUDENT)):
            self.journal.close()
            raise TrainingError(
                f"the student's weights are NaN or infinite after step {self.step} ({broken}) and are not saved. "
                f"{RATE}, and start again or go on from an earlier state."
            )

    def ready_to_save(self, final: bool = False) -> None:
        """Switch to the weights that are saved and report if they learnt nothing.

        Raises TrainingError if they broke.
        """
        self.learn(False)
        self.check_weights()
        if self.fields.adapters.state(STUDENT).changes_nothing():
            self.journal.say(NOTHING_LEARNT.format(self.output.lora_path(None if final else self.step).name))

    def preview(self) -> None:
        """Draw the preview prompts, if there are any; after running out of memory, never again in this run."""
        if not self.previews:
            return
        self.learn(False)
        full = self.accelerator.is_main_process and not self.drawn()
        if any_process(self.accelerator, full):  # on all processes, so that none waits for the others
            self.previews = None
            release_memory()
        self.journal.pause()

    def drawn(self) -> bool:
        """Draw now; return False, and report it, if memory runs out. The memory is free after the return.

        A request to stop ends the drawing.
        """
        try:
            picture = self.previews.draw(self.step, self.journal.say)
        except Abandoned:
            return True
        except torch.OutOfMemoryError:
            self.journal.say(NO_PREVIEWS.format(self.step))
            return False
        except (NoEntry, OSError, UserError) as error:  # an input that existed when the run started
            self.journal.say(f"no pictures of step {self.step}: {error}. Training goes on.")
            return True
        self.journal.picture(picture, self.step)
        return True

    def finish(self) -> Path:
        """Save, then draw, so that a failing picture costs no training."""
        saving = self.preset.saving
        saved = self.save_at_end(state=saving.save_state or saving.save_state_on_train_end, final=True)
        if self.preset.sampling.sample_every_n_steps:
            self.preview()
        self.journal.close()
        return saved.lora

    def stop_if_asked(self) -> None:
        """Raise Stopped if a process was asked to stop."""
        if any_process(self.accelerator, self.stop.requested):
            self.finish_early()

    def finish_early(self) -> NoReturn:
        """Save what was learnt. Raises Stopped, which says how to go on."""
        if self.step > self.first:
            self.save_at_end(state=True)
        self.journal.close()
        raise Stopped(self.what_is_left())

    def what_is_left(self) -> str:
        """Return the message after a request to stop: the step, what is saved and how to go on."""
        saving, resumed = self.saving, self.plan.resume
        if self.step == self.first:
            what = f"in step {self.step + 1}, before anything was learnt: nothing is saved"
        elif saving.newest_step == self.step:
            what = f"after step {self.step}, saved {saving.newest.lora}"
        else:
            since = saving.newest_step or self.first
            what = f"at once after step {self.step}: what was learnt since step {since} is lost"
        way_on = f"Resume with: --resume {resumed.folder}" if resumed else ""
        return f"stopped {what}. {saving.newest.way_on if saving.newest else way_on}".strip()

    def save_at_once(self) -> None:
        """Save the result of the last complete step, and report it, while the main thread is in the middle of another.

        Used when the console closes, which leaves no time to finish a step. The main thread waits at its next change.
        """
        with self.whole:
            if self.step > self.first and self.saving.newest_step != self.step and self.accelerator.is_main_process:
                self.ready_to_save()
                self.saving.last(self.step, state=True, final=False)
            self.journal.say(self.what_is_left())

    def stop_for_nan(self, report: Report) -> None:
        """Save the weights, which are those of the last good step, and report which part broke and what to try."""
        why = blame(self, report)
        saved = self.keep_what_is_good()
        what = "loss" if not math.isfinite(report.loss) else "gradient"
        raise TrainingError(f"the {what} of step {self.step + 1} (route {report.route}) is NaN: {why}.{saved}")

    def keep_what_is_good(self) -> str:
        """Save LoRA and state of the last good step before an error; return the sentence that says so.

        Before the first step of this run there is nothing to save: a fresh student is a file of zeros. A failing save
        is reported in the same sentence and never hides the original error.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.learn(False)
        if self.step == self.first:
            self.journal.close()
            return " This is the first step, so there is nothing to save."
        if not all(map(is_finite, self.parameters)):
            self.journal.close()
            return " The student's weights broke as well and were not saved: go on from an earlier state."
        try:
            saved = self.save_at_end(state=True)
        except Exception as lost:  # no error here may hide the original one
            return f" The weights of step {self.step} are lost: {lost}"
        finally:
            self.journal.close()
        return f" The weights of step {self.step} are saved in {saved.lora}. {saved.way_on}"

    def optimizer_state(self) -> dict:
        scaler = self.accelerator.scaler
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "forwards": self.output.forwards,
        }

    def restore(self) -> None:
        """Continue from the saved state, with the preset's learning rate and schedule."""
        saved, adapters = self.plan.resume, self.fields.adapters
        sizes = {name: tuple(weight.shape) for name, weight in adapters.state_dict(STUDENT).items()}
        state = read_state(saved, sizes, optimizer_of(self.preset, self.accelerator.device), self.accelerator.device)
        adapters.load_state(STUDENT, state.student)
        self.optimizer.load_state_dict(state.optimizer)
        self.schedule.load_state_dict(state.schedule)
        set_learning_rate(self.schedule, self.preset.optimizer.learning_rate)
        if self.accelerator.scaler and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        self.output.forwards = state.forwards
        self.step = saved.step


def _due(step: int, every: int | None) -> bool:
    return bool(every) and step % every == 0
