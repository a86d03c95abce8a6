"""Writes LoRA files and state folders under sd-scripts' names, and removes old ones."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from danceopd_ext.config import Preset
from danceopd_ext.config.as_used import name_of, native_preset
from danceopd_ext.engine.model import Model
from danceopd_ext.engine.precision import torch_dtype
from danceopd_ext.files import remove
from danceopd_ext.lora.adapters import Adapters
from danceopd_ext.lora.families import architecture_of
from danceopd_ext.lora.metadata import build_metadata
from danceopd_ext.lora.write import write_lora
from danceopd_ext.toolkits.metadata import danceopd_entries
from danceopd_ext.toolkits.native.run_plan import STUDENT, RunPlan
from danceopd_ext.toolkits.native.state import save_state
from danceopd_ext.toolkits.preset_record import ENTRY


class Output:
    """Writes the run's results to output_dir. Only the main process writes."""

    def __init__(
        self, plan: RunPlan, adapters: Adapters, optimizer_state: Callable[[], dict], trackers: Mapping[str, str]
    ):
        self.plan, self.adapters, self.optimizer_state, self.trackers = plan, adapters, optimizer_state, trackers
        self.saving = plan.preset.saving
        self.folder = Path(self.saving.output_dir)
        self.started_at = time.time()
        self.forwards = 0
        """How many samples went through the transformer so far, on all processes."""

    def lora_path(self, step: int | None) -> Path:
        """`NAME-step00000300.safetensors`, or `NAME.safetensors` at the end."""
        return self.folder / f"{self._name(step)}.safetensors"

    def state_path(self, step: int | None) -> Path:
        return self.folder / f"{self._name(step)}-state"

    def _name(self, step: int | None) -> str:
        return self.saving.output_name + ("" if step is None else f"-step{step:08d}")

    def write_lora(self, path: Path, steps_done: int) -> None:
        """Write the student as it is now and compare the file with it."""
        lora, metadata = self.adapters.state(STUDENT), self.metadata(steps_done)
        dialect = self.plan.family.format_of(self.saving.save_model_as, lora.modules)
        write_lora(path, lora, self.plan.model.layout, dialect, metadata, torch_dtype(self.saving.save_precision))

    def write_state(self, path: Path, steps_done: int) -> None:
        """Write everything that resuming needs."""
        student = self.adapters.state_dict(STUDENT)
        save_state(path, steps_done, self.plan.identity, student, self.optimizer_state(), self.trackers)

    def forget_loras(self, steps_done: int) -> None:
        """Remove the LoRAs of old steps if the preset keeps only the last ones."""
        if self.saving.save_last_n_steps:
            self._forget(".safetensors", steps_done - self.saving.save_last_n_steps)

    def forget_states(self, steps_done: int) -> None:
        """Remove the states of old steps if the preset keeps only the last ones."""
        keep = self.saving.save_last_n_steps_state or self.saving.save_last_n_steps
        if keep:
            self._forget("-state", steps_done - keep)

    def _forget(self, ending: str, before: int) -> None:
        """Remove this run's files of steps before `before` (sd-scripts keeps those of the last n steps).

        A file that cannot be removed, because another program has it open, is tried again at the next save.
        """
        pattern = re.compile(re.escape(self.saving.output_name) + r"-step(\d{8})" + re.escape(ending) + "$")
        with suppress(OSError):
            for path in self.folder.iterdir():
                found = pattern.match(path.name)
                if found and int(found[1]) < before:
                    remove(path)

    def metadata(self, steps_done: int) -> dict[str, str]:
        """Return the ss_*, modelspec.* and ss_danceopd_* entries: file names, never a path."""
        preset, data = self.plan.preset, self.plan.data
        edits = [route.route for route in data.summary() if route.sources and route.weight]
        extra = {
            "ss_danceopd_forwards": self.forwards,
            "ss_danceopd_edit_routes": edits or None,
            "ss_steps": steps_done,
            "ss_seed": preset.training.seed,
            "ss_learning_rate": preset.optimizer.learning_rate,
            "ss_optimizer": preset.optimizer.optimizer_type,
            "ss_lr_scheduler": preset.optimizer.lr_scheduler,
            "ss_mixed_precision": preset.training.mixed_precision,
            "ss_fp8_base": True if preset.quantize == "fp8" else None,
            "ss_danceopd_quantize": preset.quantize,
            "ss_danceopd_quantize_text_encoders": preset.model.quantize_text_encoders,
            "ss_gradient_accumulation_steps": preset.training.gradient_accumulation_steps,
        }
        return lora_metadata(
            preset,
            self.plan.model,
            data.weights,
            extra,
            started_at=self.started_at,
            resolution=next(size for route in data.summary() for size in route.sizes),
            steps=preset.training.max_train_steps,
        )


def lora_metadata(
    preset: Preset,
    model: Model,
    weights: Mapping[str, float],
    extra: Mapping[str, object],
    **facts: object,
) -> dict[str, str]:
    """Return the metadata that all LoRAs have. `weights`: route -> weight. `facts`: see build_metadata."""
    saving = preset.saving
    entries = danceopd_entries(preset.danceopd, weights)
    return build_metadata(
        title=saving.metadata_title or saving.output_name,
        architecture=architecture_of(model.layout, model.family.architecture),
        base_model=model.files.name,
        rank=preset.network.network_dim,
        teachers=[f"{name} ({what})" for name, what in entries["ss_danceopd_teachers"].items()],
        author=saving.metadata_author,
        description=saving.metadata_description,
        trigger_phrase=saving.metadata_trigger_phrase,
        finished_at=time.time(),
        extra={
            **entries,
            **extra,
            ENTRY: native_preset(preset, name_of),
            "ss_training_comment": saving.training_comment,
            "modelspec.license": saving.metadata_license,
            "modelspec.tags": saving.metadata_tags,
        },
        **facts,
    )
