"""Out of memory beside training: previews are given up, and encoding ends with one message."""

from __future__ import annotations

import weakref

import pytest
import torch

from danceopd_ext.cli import run
from danceopd_ext.engine import latents
from danceopd_ext.engine import model as engine_model
from danceopd_ext.toolkits.native import loop
from danceopd_ext.toolkits.run import main
from tests.tiny.presets import write_preset
from tests.toolkits.runs import log_of, same_tensors, says

KEYS = {"max_train_steps": 4, "rollout_steps": 2, "network_dropout": 0.3}
DRAWN = {"sample_every_n_steps": 1, "sample_at_first": True}


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def preset(pipelines, two_teachers, tmp_path):
    """Write a preset that draws a picture at every step, or none."""

    def preset(name, **keys):
        if "sample_every_n_steps" in keys:
            prompts = tmp_path / "prompts.txt"
            prompts.write_text("red cat --w 16 --h 16 --s 2\n", encoding="utf-8")
            keys["sample_prompts"] = str(prompts)
        return write_preset(tmp_path / name, pipelines["sd3"], two_teachers["sd3"], **{**KEYS, **keys})

    return preset


@pytest.fixture
def full_after(monkeypatch):
    """Let the VAE decode so many pictures and no more; return what is left of the VAE at each step, and the tries."""

    def full_after(count):
        left, tries = [], []
        load, step = engine_model.load_vae, loop.Run.one_step

        def loaded(*arguments):
            vae = load(*arguments)
            decode, known = vae.decode, weakref.ref(vae)

            def decoded(*arguments, **more):
                tries.append(1)
                return decode(*arguments, **more) if len(tries) <= count else out_of_memory()

            vae.decode = decoded
            full_after.vae = known
            return vae

        def one_step(self):
            left.append(full_after.vae() is not None)
            step(self)

        monkeypatch.setattr(engine_model, "load_vae", loaded)
        monkeypatch.setattr(loop.Run, "one_step", one_step)
        return left, tries

    return full_after


@pytest.mark.parametrize(("count", "kept"), [(0, [False] * 4), (4, [True, False, False, False])])
def test_a_preview_that_does_not_fit_costs_no_training(preset, launch, full_after, capsys, count, kept):
    """The first picture of all, or the student's second one: the run is that without previews, to the bit."""
    plain = launch(preset("plain"))
    left, tries = full_after(count)
    capsys.readouterr()
    output = launch(preset("drawn", **DRAWN))
    assert same_tensors(output / "fused.safetensors", plain / "fused.safetensors")
    assert [entry["loss"] for entry in log_of(output)] == [entry["loss"] for entry in log_of(plain)]
    told = [line for line in capsys.readouterr().out.splitlines() if "no pictures of step" in line]
    assert len(told) == 1
    says(told[0], f"step {0 if not count else 1}:", "--w and --h in sample_prompts", "training goes on")
    assert len(tries) == count + 1, "nobody tries again"
    assert left == kept, "the VAE is freed"
    assert len([*(output / "sample").glob("*.png")]) == (1 if count else 0)


def test_two_processes_give_it_up_together(preset, forked):
    """Only one draws, and the other must not wait for it at the next preview."""
    path = preset("two", **DRAWN)
    both = forked.run_ranks(2, "tests/toolkits/native/driver.py", "preview:2", path)
    assert [done.returncode for done in both] == [0, 0], both
    assert [done.stdout.count("no pictures of step 1:") for done in both] == [1, 0]
    assert [entry["step"] for entry in log_of(path.parent / "output")] == [1, 2, 3, 4]
    assert (path.parent / "output" / "fused.safetensors").exists()


@pytest.fixture
def told(capsys):
    """Run a preset to its exit code 2 and return the one message."""

    def told(path):
        assert run(main, ["--config", str(path)]) == 2
        errors = capsys.readouterr().err
        assert "Traceback" not in errors
        (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
        says(line, "out of GPU memory while encoding", "Close other programs")
        return line

    return told


def test_prompts_that_do_not_fit(preset, told, monkeypatch):
    monkeypatch.setattr(engine_model, "load_text_pipeline", out_of_memory)
    says(told(preset("run")), "prompts", "text_encoder_batch_size = 1", 'mixed_precision = "bf16"')


def test_pictures_that_do_not_fit(changed, pictures, told, monkeypatch):
    monkeypatch.setattr(latents, "encode", out_of_memory)
    says(told(changed({"one": {}, "two": {}}, method="joint", prompts=pictures)), "pictures", "smaller resolution")


def test_source_images_that_do_not_fit(edit_preset, told, monkeypatch):
    monkeypatch.setattr(engine_model, "load_vae", out_of_memory)
    says(told(edit_preset()), "source images", "smaller ones or a smaller resolution")
