"""What a run inside a toolkit says about memory, trackers, and the file that it leaves."""

from __future__ import annotations

from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from danceopd_ext.errors import TrainingError, UserError
from danceopd_ext.toolkits.hosted import trackers
from danceopd_ext.toolkits.hosted.conversion_hint import convert_line
from danceopd_ext.toolkits.hosted.out_of_memory import is_out_of_memory, out_of_memory
from danceopd_ext.toolkits.hosted.run_trainer import run_trainer
from danceopd_ext.toolkits.hosted.saved_files import Saved, saved_at, saved_since
from danceopd_ext.toolkits.hosted.trackers import check_trackers

MUSUBI_ARGUMENTS = {
    "gradient_checkpointing": False, "fp8_base": True, "fp8_scaled": False, "blocks_to_swap": 8, "network_dim": 16,
    "fp8_vl": False, "save_every_n_steps": 300, "output_dir": "out", "output_name": "fused",
}  # fmt: skip
SD_ARGUMENTS = {
    "gradient_checkpointing": True, "fp8_base": False, "blocks_to_swap": None, "cache_text_encoder_outputs": False,
    "network_dim": 64, "save_every_n_steps": None, "output_dir": "out", "output_name": "fused",
}  # fmt: skip


class Trainer:
    """Fails in the function of this name, as the toolkits have it."""

    session = None

    def __init__(self, work: str, error: Exception):
        self.work, self.error = work, error

    def train(self, args):
        exec(f"def {self.work}(error):\n    raise error\n{self.work}(error)", {"error": self.error})


def said(work: str, arguments: dict, error: Exception | None = None) -> str:
    with pytest.raises(TrainingError) as stopped:
        run_trainer(Trainer(work, error or torch.OutOfMemoryError("CUDA out of memory.")), Namespace(**arguments))
    return str(stopped.value)


def test_while_the_model_is_loaded():
    text = said("_load_dit_and_swap", MUSUBI_ARGUMENTS)
    assert text.startswith("out of memory while loading the model and its teachers. Try: fp8_scaled = true")
    assert "blocks_to_swap above 8" in text
    assert "gradient_checkpointing" not in text
    assert "saved" not in text


def test_while_texts_are_encoded():
    assert "out of memory while encoding the prompts. Try: fp8_vl = true." in said("encode_texts", MUSUBI_ARGUMENTS)
    text = said("cache_text_encoder_outputs_if_needed", SD_ARGUMENTS)
    assert "out of memory while encoding the prompts" in text


def test_while_previews_are_drawn():
    assert "--w and --h in sample_prompts" in said("sample_images", SD_ARGUMENTS)


@pytest.mark.parametrize(
    ("arguments", "there", "missing"),
    [
        (
            MUSUBI_ARGUMENTS,
            ["gradient_checkpointing = true", "blocks_to_swap above 8", "below 16"],
            ["fp8_base = true"],
        ),
        (SD_ARGUMENTS, ["fp8_base = true", "blocks_to_swap,", "below 64"], ["gradient_checkpointing = true"]),
    ],
)
def test_in_a_step_only_what_is_not_on_yet_is_recommended(arguments, there, missing):
    text = out_of_memory(MemoryError(), Namespace(**arguments), 7, True, Saved(Path("a"), Path("b")))
    assert text.startswith("out of memory in step 7. Try: ")
    assert all(part in text for part in there)
    assert not any(part in text.partition("Close")[0] for part in missing)
    assert "The last saved LoRA is a. Resume with: --resume b" in text


def test_what_was_not_saved_is_said():
    for arguments, why in ((MUSUBI_ARGUMENTS, "save_every_n_steps = 300"), (SD_ARGUMENTS, "set save_every_n_steps")):
        text = out_of_memory(MemoryError(), Namespace(**arguments), 7, True, Saved())
        assert f"Nothing was saved yet: {why}" in text


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory cards"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, memory):
    assert is_out_of_memory(error) == memory
    if not memory:
        with pytest.raises(type(error)):
            run_trainer(Trainer("train_it", error), Namespace(**SD_ARGUMENTS))


def test_only_what_this_run_saved_counts(tmp_path):
    for name in ("fused-step00000300.safetensors", "fused-step00000600.safetensors", "other-step00000900.safetensors"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "fused-step00000300-state").mkdir()
    (tmp_path / "fused.safetensors").write_bytes(b"")
    args = Namespace(output_dir=str(tmp_path), output_name="fused")
    found = saved_since(args, 0)
    assert found == Saved(tmp_path / "fused-step00000600.safetensors", tmp_path / "fused-step00000300-state")
    later = (tmp_path / "fused-step00000600.safetensors").stat().st_mtime + 60
    assert saved_since(args, later) == Saved()
    assert saved_at(args, 300) == Saved(tmp_path / "fused-step00000300.safetensors", found.state)
    assert saved_at(args, 900) == Saved()
    assert saved_since(Namespace(output_dir=str(tmp_path / "no"), output_name="fused"), 0) == Saved()


@pytest.fixture
def installed(monkeypatch):
    """Only these packages are there."""

    def only(*packages: str) -> None:
        monkeypatch.setattr(trackers, "installed", lambda name: name in packages)

    return only


def tracking(**more) -> Namespace:
    return Namespace(**{"log_with": None, "logging_dir": None, "output_dir": "out", "output_name": "x", **more})


def test_a_missing_tracker_is_told_before_anything_is_loaded(installed):
    installed()
    assert check_trackers(tracking()) == []
    for asked in ({"logging_dir": "logs"}, {"logging_dir": "logs", "log_with": "tensorboard"}):
        (note,) = check_trackers(tracking(**asked))
        assert "TensorBoard is not installed" in note
        assert "pip install tensorboard" in note
        assert str(Path("out/x.log.jsonl")) in note
    with pytest.raises(UserError, match="wandb is not installed"):
        check_trackers(tracking(log_with="wandb"))
    with pytest.raises(UserError, match=r'log_with = "tensorboard" needs logging_dir'):
        check_trackers(tracking(log_with="tensorboard"))


def test_a_folder_called_wandb_is_no_package(monkeypatch, tmp_path):
    """W&B makes one where it runs."""
    (tmp_path / "no_such_tracker").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_spec("no_such_tracker") is not None and not trackers.installed("no_such_tracker")


def test_trackers_that_are_there_need_no_word(installed):
    installed("wandb", "tensorboard")
    assert check_trackers(tracking(log_with="all", logging_dir="logs")) == []
    installed("wandb", "tensorboardX")
    assert check_trackers(tracking(log_with="all", logging_dir="logs")) == []


@pytest.mark.parametrize(
    ("toolkit", "model_type", "line"),
    [
        ("musubi-tuner", "z_image", 'for ComfyUI: python -m danceopd_ext convert "o/a b.safetensors" '
         '"o/a b_comfyui.safetensors" --to comfyui'),
        ("sd-scripts", "sd3", 'for diffusers: python -m danceopd_ext convert "o/a b.safetensors" '
         '"o/a b_diffusers.safetensors" --to diffusers'),
        ("musubi-tuner", "flux_2", None),
        ("sd-scripts", "flux", None),
    ],
)  # fmt: skip
def test_the_convert_command_for_the_program_that_needs_it(toolkit, model_type, line):
    told = convert_line(toolkit, model_type, Path("o/a b.safetensors"))
    assert told == (line and line.replace("o/", str(Path("o/a"))[:2]))
    assert convert_line(toolkit, model_type, Path("a.ckpt")) is None
