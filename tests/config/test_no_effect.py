"""A value that has no effect beside the others is told before the run."""

from __future__ import annotations

import pytest

from danceopd_ext.config import load_preset


@pytest.fixture
def notes(tmp_path):
    """The notes of a preset with these lines."""

    def notes(lines: str) -> list[str]:
        path = tmp_path / "preset.toml"
        path.write_text(f'pretrained_model_name_or_path = "a/b"\n{lines}\n[danceopd.teachers.base]\n', encoding="utf-8")
        return load_preset(path).notes

    return notes


@pytest.mark.parametrize(
    ("lines", "name", "remedy"),
    [
        ("save_last_n_steps = 100", "save_last_n_steps", "save_every_n_steps"),
        ("save_last_n_steps_state = 100", "save_last_n_steps_state", "save_state"),
        ("save_last_n_steps_state = 9\nsave_every_n_steps = 3", "save_last_n_steps_state", "save_state"),
        ('logging_dir = "x"', "logging_dir", 'log_with = "tensorboard"'),
        ('logging_dir = "x"\nlog_with = "wandb"', "logging_dir", 'log_with = "tensorboard"'),
        ('wandb_run_name = "x"', "wandb_run_name", 'log_with = "wandb"'),
        ('log_tracker_name = "x"\nlog_with = "tensorboard"', "log_tracker_name", 'log_with = "wandb"'),
    ],
)
def test_without_effect(notes, lines, name, remedy):
    (note,) = notes(lines)
    assert note.startswith(f"{name} = ") and "has no effect" in note and remedy in note


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "save_every_n_steps = 10\nsave_last_n_steps = 30\nsave_state = true\nsave_last_n_steps_state = 20",
        'logging_dir = "x"\nlog_with = "all"\nwandb_run_name = "x"\nlog_tracker_name = "x"',
        'log_tracker_name = "danceopd"',
    ],
)
def test_with_effect(notes, lines):
    assert notes(lines) == []
