"""Reports values of a preset that have no effect because of its other values."""

from __future__ import annotations

from danceopd_ext.config.schema import LoggingSection, Preset


def without_effect(preset: Preset) -> list[str]:
    """Return a note for each value without effect; for the optimizer's see toolkits/native/rates.py."""
    saving, logging = preset.saving, preset.logging
    notes = []
    if saving.save_last_n_steps and not saving.save_every_n_steps:
        notes.append(
            _idle("save_last_n_steps", saving.save_last_n_steps, "only the last LoRA is saved", "save_every_n_steps")
        )
    states = saving.save_state and saving.save_every_n_steps
    if saving.save_last_n_steps_state and not states:
        what = "save_every_n_steps and save_state"
        notes.append(
            _idle(
                "save_last_n_steps_state", saving.save_last_n_steps_state, "no states are saved during training", what
            )
        )
    if logging.logging_dir and logging.log_with not in ("tensorboard", "all"):
        notes.append(
            _idle("logging_dir", logging.logging_dir, "only the JSONL log is written", 'log_with = "tensorboard"')
        )
    for name in ("wandb_run_name", "log_tracker_name"):
        value = getattr(logging, name)
        if value != getattr(LoggingSection, name) and logging.log_with not in ("wandb", "all"):
            notes.append(_idle(name, value, "nothing is sent to W&B", 'log_with = "wandb"'))
    return notes


def _idle(name: str, value: object, because: str, remedy: str) -> str:
    return f"{name} = {value} has no effect because {because}: set {remedy} as well"
