"""What the run tells while it goes on: a progress bar, a JSONL log, and the trackers that the user asked for."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image
from tqdm import tqdm

from danceopd_ext.config import Preset
from danceopd_ext.engine.compiling import Compilations
from danceopd_ext.errors import printable
from danceopd_ext.machine import peak_memory_mb
from danceopd_ext.method import Report
from danceopd_ext.toolkits.log_file import RECENT, LogFile
from danceopd_ext.toolkits.native.compilation_log import CompilationLog
from danceopd_ext.toolkits.stage_clock import StageClock
from danceopd_ext.toolkits.tracker_guard import guard_trackers


class Journal:
    """One record per update, on the main process. `say` prints a line without breaking the progress bar."""

    def __init__(self, preset: Preset, accelerator: Accelerator, start: int, compilations: Compilations | None = None):
        self.accelerator, self.total = accelerator, preset.training.max_train_steps
        self.main = accelerator.is_main_process
        self.path = Path(preset.saving.output_dir) / f"{preset.saving.output_name}.log.jsonl"
        self.recent: dict[str, deque[float]] = {}
        self.clock = StageClock(accelerator.device)
        self.last = time.perf_counter()
        self.compiled = CompilationLog(compilations, self.say)
        self.file = LogFile(self.path, start, self.say) if self.main else None
        guard_trackers(accelerator, self.say)
        self.bar = tqdm(total=self.total, initial=start, desc="training", unit="step", disable=not self.main)

    def say(self, line: str) -> None:
        if self.main:
            tqdm.write(printable(line, keep="\n"))

    def record(self, step: int, report: Report, loss: float, learning_rate: float, grad_norm: float) -> None:
        """Log update number `step` (counted from 1)."""
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        recent = self.recent.setdefault(report.route, deque(maxlen=RECENT))
        recent.append(loss)
        entry = {
            "step": step,
            "route": report.route,
            "loss": loss,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "query_sigma": report.mean_query_sigma,
            "rollout_forwards_per_sample": report.rollout_forwards / report.samples,
            "teacher_forwards_per_sample": report.teacher_forwards / report.samples,
            "student_forwards_per_sample": report.student_forwards / report.samples,
            "forwards": report.forwards,
            "samples": report.samples,
            "seconds": round(seconds, 4),
            "stage_seconds": self.clock.take(seconds),
            "peak_memory_mb": round(peak_memory_mb(self.accelerator.device), 1),
            **self.compiled.entry(),
        }
        if self.file:
            self.file.write(entry)
            self._track(entry, step)
        losses = {name: f"{sum(values) / len(values):.3g}" for name, values in sorted(self.recent.items())}
        self.bar.set_postfix(losses, refresh=False)
        self.bar.update()
        self.compiled.step(step, report.route)

    def _track(self, entry: dict[str, Any], step: int) -> None:
        values = {k: v for k, v in entry.items() if isinstance(v, (int, float)) and k != "step"}
        stages = {f"seconds/{stage}": seconds for stage, seconds in entry["stage_seconds"].items()}
        self.accelerator.log({**values, **stages, f"loss/{entry['route']}": entry["loss"]}, step=step)

    def picture(self, image: Image.Image, step: int) -> None:
        """Show a preview grid in the trackers."""
        pixels = np.asarray(image)[None]
        for tracker in self.accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"samples": pixels}, step=step, **layout)

    def pause(self) -> None:
        """Leave what happened since the last record (a save, a preview) out of the next update's seconds."""
        self.last = time.perf_counter()
        self.compiled.pictures()

    def close(self) -> None:
        """End the log and the trackers, and say where the time went."""
        self.bar.close()
        if summary := self.clock.summary():
            self.say(summary)
        if self.file:
            self.file.close()
        self.accelerator.end_training()
