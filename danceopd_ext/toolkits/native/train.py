"""The native run from start to end, and its loop."""

from __future__ import annotations

import math
import signal
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from tqdm import tqdm

from danceopd_ext.config import Preset
from danceopd_ext.errors import TrainingError
from danceopd_ext.lora.metadata import stem
from danceopd_ext.method import Method, Report, derive_seed, update
from danceopd_ext.toolkits.native.batches import StepData, encode_texts, open_cache
from danceopd_ext.toolkits.native.build import Fields, build_fields
from danceopd_ext.toolkits.native.journal import Journal
from danceopd_ext.toolkits.native.optimizers import (
    default_optimizer,
    is_schedule_free,
    make_optimizer,
    make_schedule,
    optimizer_class,
)
from danceopd_ext.toolkits.native.output import Output
from danceopd_ext.toolkits.native.prepare import STUDENT, Prepared, check_writable, prepare
from danceopd_ext.toolkits.native.previews import Previews
from danceopd_ext.toolkits.native.processes import has_accelerator
from danceopd_ext.toolkits.native.state import check_loadable


def train(preset: Preset) -> Path:
    """Train one student LoRA from the preset's teachers and return the path of the final file.

    Raises UserError for wrong input (before anything is written) and TrainingError when the run has to stop.
    """
    accelerator = make_accelerator(preset)
    preset.optimizer.optimizer_type = preset.optimizer.optimizer_type or default_optimizer(accelerator.device)
    optimizer_class(preset.optimizer.optimizer_type, accelerator.device)
    prepared = prepare(preset, accelerator)
    tell(prepared, accelerator)
    output_dir = Path(preset.saving.output_dir)
    check_writable(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)

    def say(line: str) -> None:
        if accelerator.is_main_process:
            tqdm.write(line)

    cache = open_cache(prepared, preset.dataset.text_encoder_cache_dir or str(output_dir / "cache"))
    encode_texts(prepared, cache, accelerator, say)
    data = StepData(prepared, cache, accelerator)
    fields = build_fields(prepared, accelerator, say)
    return Run(prepared, accelerator, fields, data).go()


def make_accelerator(preset: Preset) -> Accelerator:
    """Device, precision and processes, from `accelerate launch` and the preset."""
    precision = preset.training.mixed_precision
    if precision == "fp16" and not torch.cuda.is_available():
        precision = "no"  # refused with a message in prepare
    logging_dir = preset.logging.logging_dir or str(Path(preset.saving.output_dir) / "logs")
    return Accelerator(
        mixed_precision=precision,
        log_with=preset.logging.log_with,
        project_dir=logging_dir,
        cpu=not has_accelerator(),
        # encoding many prompts on the main process takes longer than the usual limit of a waiting process
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
    )


def tell(prepared: Prepared, accelerator: Accelerator) -> None:
    """What is about to happen, in a few lines."""
    preset, say = prepared.preset, accelerator.print
    for note in prepared.notes:
        say(f"note: {note}")
    say(f"model    {prepared.source.name} ({prepared.family.title}), {preset.training.mixed_precision} precision, "
        f"{accelerator.device.type}, {accelerator.num_processes} process(es)")  # fmt: skip
    for route in prepared.plan.summary():
        say(f"route    {route}")
    samples = len(prepared.plan.step(0).texts)
    say(f"student  rank {preset.network.network_dim} on {len(prepared.targets)} layers, {samples} samples a step, "
        f"{preset.optimizer.optimizer_type} at {preset.optimizer.learning_rate:g}")  # fmt: skip
    if prepared.resume:
        say(f"resume   {stem(str(prepared.resume.folder))}: {prepared.resume.step} steps are done")


class Run:
    """The loop and what it carries from step to step."""

    def __init__(self, prepared: Prepared, accelerator: Accelerator, fields: Fields, data: StepData):
        preset = prepared.preset
        self.prepared, self.preset, self.accelerator, self.fields, self.data = (
            prepared, preset, accelerator, fields, data,
        )  # fmt: skip
        self.parameters = fields.adapters.student_parameters()
        optimizer = make_optimizer(preset.optimizer, self.parameters, accelerator.device)
        self.schedule = make_schedule(preset.optimizer, optimizer, preset.training.max_train_steps)
        self.optimizer = accelerator.prepare(optimizer)
        self.output = Output(prepared, fields.adapters, self.optimizer_state)
        self.method = Method(
            rollout_steps=preset.danceopd.rollout_steps,
            query=preset.danceopd.query,
            num_queries=preset.danceopd.num_queries,
            rollout_batch_size=preset.danceopd.rollout_batch_size,
        )
        self.step = 0
        if prepared.resume:
            self.restore()
        self.journal = Journal(preset, accelerator, self.step)
        self.previews = Previews(prepared, fields, data, accelerator.device) if prepared.previews else None
        self.stop = StopRequest()

    def go(self) -> Path:
        """Run to max_train_steps, or until Ctrl-C; return the path of the last LoRA written."""
        sampling, total = self.preset.sampling, self.preset.training.max_train_steps
        with self.stop:
            if self.previews and sampling.sample_at_first and self.step == 0:
                self.preview()
            while self.step < total:
                self.one_step()
                if self.stop_wanted():
                    return self.finish_early()
                self.save_if_due(total)
                every = sampling.sample_every_n_steps
                if self.previews and every and (self.step % every == 0 or self.step == total):
                    self.preview()
        return self.finish()

    def one_step(self) -> None:
        """One optimizer step: the method's update, then the usual care for gradients."""
        self.learn(True)
        torch.manual_seed(derive_seed(self.preset.training.seed, "dropout", self.step, self.accelerator.process_index))
        report = update(
            self.method, self.step, self.preset.training.seed, self.data.plan.weights, self.data,
            self.fields.teachers, self.fields.student, self.accelerator.backward, self.accelerator.device,
        )  # fmt: skip
        report = self.over_processes(report)
        if not math.isfinite(report.loss):
            self.stop_for_nan(report)
        norm = self.average_and_clip()
        self.optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:
            self.schedule.step()
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.journal.record(self.step, report, report.loss, rate, norm)

    def over_processes(self, report: Report) -> Report:
        """The report of the whole step: means and sums over all processes."""
        if self.accelerator.num_processes == 1:
            return report
        names = ("samples", "rollout_forwards", "teacher_forwards", "student_forwards")
        values = [report.loss, report.mean_query_sigma, *(float(getattr(report, name)) for name in names)]
        mine = torch.tensor(values, dtype=torch.float64 if self.accelerator.device.type == "cpu" else torch.float32)
        total = self.accelerator.reduce(mine.to(self.accelerator.device), "sum").tolist()
        processes = self.accelerator.num_processes
        counts = {name: int(value) for name, value in zip(names, total[2:], strict=True)}
        return replace(report, loss=total[0] / processes, mean_query_sigma=total[1] / processes, **counts)

    def average_and_clip(self) -> float:
        """Average the gradient over the processes, once a step and past DDP, so that adapters can switch freely."""
        if self.accelerator.num_processes > 1:
            flat = torch.cat([p.grad.flatten() for p in self.parameters])
            flat = self.accelerator.reduce(flat, "mean")
            for p, grad in zip(self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True):
                p.grad.copy_(grad.view_as(p))
        limit = self.preset.optimizer.max_grad_norm or math.inf
        return float(self.accelerator.clip_grad_norm_(self.parameters, limit))

    def learn(self, wanted: bool) -> None:
        """Schedule-free optimizers keep two sets of weights: one to learn with, one to save and draw with."""
        if is_schedule_free(self.optimizer):
            self.optimizer.train() if wanted else self.optimizer.eval()

    def save_if_due(self, total: int) -> None:
        every = self.preset.saving.save_every_n_steps
        if every and self.step % every == 0 and self.step < total:
            self.save(state=self.preset.saving.save_state)

    def save(self, state: bool, final: bool = False) -> Path:
        """Write the LoRA, and the state if wanted, on the main process."""
        self.learn(False)
        path = self.output.lora_path(None if final else self.step)
        if self.accelerator.is_main_process:
            self.output.save_lora(self.step, final)
            self.journal.say(f"saved {path}")
            if state:
                folder = self.output.save_state(self.step, final)
                self.journal.say(f"saved {folder}")
        self.accelerator.wait_for_everyone()
        self.journal.pause()
        return path

    def preview(self) -> None:
        self.learn(False)
        if self.accelerator.is_main_process:
            picture = self.previews.draw(self.step, self.journal.say)
            self.journal.picture(picture, self.step)
        self.accelerator.wait_for_everyone()
        self.journal.pause()

    def finish(self) -> Path:
        saving = self.preset.saving
        path = self.save(state=saving.save_state or saving.save_state_on_train_end, final=True)
        self.journal.close()
        return path

    def finish_early(self) -> Path:
        """Ctrl-C: keep what was learnt, and say how to go on."""
        path = self.save(state=True)
        self.journal.say(f"stopped after step {self.step}. Go on with: --resume {self.output.state_path(self.step)}")
        self.journal.close()
        return path

    def stop_wanted(self) -> bool:
        """Whether any process was asked to stop; all of them stop after the same step."""
        if self.accelerator.num_processes == 1:
            return self.stop.requested
        mine = torch.tensor(float(self.stop.requested), device=self.accelerator.device)
        return bool(self.accelerator.reduce(mine, "sum") > 0)

    def stop_for_nan(self, report: Report) -> None:
        """The weights are still those of the last good step: save them, then say what to try."""
        self.optimizer.zero_grad(set_to_none=True)
        path = self.save(state=True)
        self.journal.close()
        raise TrainingError(
            f"the loss of step {self.step + 1} (route {report.route}) is not a number. The weights before it are "
            f"saved in {path}. Try a lower learning_rate, mixed_precision = \"bf16\" instead of fp16, or a lower "
            f"max_grad_norm; if it happens in the first steps, check the LoRA of teacher {report.route}."
        )  # fmt: skip

    def optimizer_state(self) -> dict:
        scaler = self.accelerator.scaler
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
        }

    def restore(self) -> None:
        """Continue from the saved state."""
        saved = self.prepared.resume
        state = check_loadable(saved)
        self.fields.adapters.load_state(STUDENT, saved.student())
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = saved.step


class StopRequest:
    """Ctrl-C (and SIGTERM) asks for a stop after the step; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        tqdm.write("finishing this step, then saving; press Ctrl-C again to stop at once")
