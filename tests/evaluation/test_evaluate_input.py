"""Wrong input ends with one message and exit code 2, before anything is written."""

from pathlib import Path

import pytest
import torch

from danceopd_ext.cli import run
from danceopd_ext.engine import devices
from danceopd_ext.evaluation.painter import Painter
from tests.evaluation.benchmarks import write_gedit, write_geneval
from tests.evaluation.calls import gedit_arguments, geneval_arguments


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--width", "61"), "needs a multiple of 4 up to"),
        (("--width", "0"), "--width: 0 is not a whole number of at least 1"),
        (("--steps", "0"), "--steps: 0 is not a whole number of at least 1"),
        (("--steps", "-1"), "--steps: -1 is not a whole number of at least 1"),
        (("--limit", "0"), "--limit: 0 is not a whole number of at least 1"),
        (("--samples", "two"), "--samples: two is not a whole number of at least 1"),
        (("--guidance_scale", "nan"), "--guidance_scale: nan is not a guidance scale"),
        (("--guidance_scale", "0"), "--guidance_scale: 0 is not a guidance scale: give a number from 1 (none)"),
        (("--lora", "gone=none.safetensors"), "--lora gone: none.safetensors: no such file"),
        (("--lora", "a=x", "--lora", "A=y"), '"a" is already used'),
        (("--lora", "cache=x"), 'the folder "cache" has another use'),
        (("--no_base",), "no model to draw with"),
        (("--clip", "nowhere"), "--clip nowhere"),
        (("--mixed_precision", "fp16"), "needs a GPU"),
        (("--blocks_to_swap", "9"), "blocks_to_swap = 9: Stable Diffusion 3"),
        (("--model", "no/such/model"), "no/such/model (--model) was not found"),
        (("--model_type", "flux"), 'model_type = "flux"'),
        (("--prompts", "none.jsonl"), "none.jsonl: table not found"),
    ],
)
def test_bad_arguments(tmp_path, sd3, refusal, more, message):
    write_geneval(tmp_path)
    assert message in refusal(geneval_arguments(tmp_path, sd3[0], *more))


@pytest.mark.parametrize("taken", ["out", "out/base", "out/cache"])
def test_a_file_where_a_folder_goes(tmp_path, sd3, refusal, taken):
    write_geneval(tmp_path)
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).touch()
    message = refusal(geneval_arguments(tmp_path, sd3[0]))
    assert "--out" in message and f"{tmp_path / taken}" in message and "choose another folder" in message


def test_half_a_model_is_named_before_anything_is_loaded(tmp_path, sd3, refusal):
    model = tmp_path / "model"
    for file in sd3[0].rglob("*"):
        if file.is_file():
            copy = model / file.relative_to(sd3[0])
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    weights = next((model / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    write_geneval(tmp_path)
    assert f"{weights} is not a complete .safetensors file" in refusal(geneval_arguments(tmp_path, model))


def test_an_edit_benchmark_needs_a_model_that_edits(tmp_path, sd3, refusal):
    write_gedit(tmp_path)
    assert "cannot edit pictures" in refusal(gedit_arguments(tmp_path, sd3[0]))


def test_a_full_gpu_is_said_in_words(evaluate, tmp_path, sd3, monkeypatch, capsys):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Painter, "_picture", full)
    assert run(evaluate.main, geneval_arguments(tmp_path, sd3[0])) == 1
    assert "stopped: out of GPU memory: the model and its pictures do not fit" in capsys.readouterr().err


def test_a_full_disk_is_said_in_words(evaluate, tmp_path, sd3, monkeypatch, capsys):
    write = Path.write_bytes

    def full(path, content):
        if "0000.png" in path.name:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(evaluate.main, geneval_arguments(tmp_path, sd3[0])) == 1
    assert "0000.png cannot be written (No space left on device)" in capsys.readouterr().err


def test_the_device_is_the_trainers(monkeypatch):
    """accelerate picks it; without an accelerator it is told to use the CPU."""
    asked = []

    class Told:
        def __init__(self, cpu):
            asked.append(cpu)
            self.device = torch.device("cpu" if cpu else "mps")

    monkeypatch.setattr(devices, "PartialState", Told)
    for there, kind in ((True, "mps"), (False, "cpu")):
        monkeypatch.setattr(devices, "has_accelerator", lambda there=there: there)
        assert devices.best_device().type == kind
    assert asked == [False, True]


def test_the_script_draws_on_that_device(evaluate, tmp_path, sd3, monkeypatch):
    seen = []

    def stop(painter, *arguments):
        seen.append(painter.model.device)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(evaluate, "best_device", lambda: torch.device("meta"))
    monkeypatch.setattr(Painter, "check", stop)
    assert run(evaluate.main, geneval_arguments(tmp_path, sd3[0])) == 1
    assert seen == [torch.device("meta")]
