"""What a toolkit saves is whole or not there, and a disk that does not take it ends no run; in both stand-ins."""

# ruff: noqa: F811 - the fixtures are imported

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from danceopd_ext import files
from danceopd_ext.errors import TrainingError
from danceopd_ext.toolkits import tracker_guard
from danceopd_ext.toolkits.earlier_results import sole_writer
from danceopd_ext.toolkits.hosted import session
from danceopd_ext.toolkits.hosted.run_trainer import run_trainer
from danceopd_ext.toolkits.hosted.session import Stopped
from tests.toolkits.hosted.test_session import interrupt_at, lora, records, toolkit, train, train_musubi  # noqa: F401
from tests.toolkits.runs import same_tensors

pytestmark = pytest.mark.usefixtures("places")

FULL = OSError(errno.ENOSPC, "No space left on device")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize(("problem", "reason"), [(FULL, "no space is left"), (READ_ONLY, "the disk is now read-only")])
def test_the_last_lora_goes_elsewhere(toolkit, refusing, places, capsys, problem, reason):
    toolkit(start=run_trainer)
    shutil.copy(toolkit.out / "fused.safetensors", places / "whole.safetensors")
    (toolkit.out / "fused.safetensors").unlink()
    refusing(problem, ".safetensors")
    trainer = toolkit(start=run_trainer)
    found = places / "working" / "fused.safetensors"
    assert same_tensors(found, places / "whole.safetensors")
    assert trainer.session.saves.lora(toolkit.out / "fused.safetensors") == found
    said = capsys.readouterr().out
    assert f"saved {found}, not in {toolkit.out}: {reason}" in said
    assert not [*toolkit.out.glob(".*")]


@pytest.mark.parametrize("ending", ["fused-step00000002.safetensors", "fused-step00000002-state"])
def test_a_save_between_steps_costs_no_training(toolkit, refusing, capsys, ending):
    refusing(FULL, ending)
    toolkit(start=run_trainer, save_every_n_steps=2)
    said = capsys.readouterr().out
    assert f"no space is left on the disk for {ending}: it is not saved, and training continues" in said
    names = {path.name for path in toolkit.out.iterdir()}
    expected = {f"fused-step0000000{step}{kind}" for step in (2, 4, 6) for kind in (".safetensors", "-state")}
    assert names == {*expected - {ending}, "fused.safetensors", "fused.log.jsonl"}
    assert len(records(toolkit.out)) == 6


def test_nothing_older_is_removed_in_the_place_of_what_was_not_saved(toolkit, refusing):
    refusing(FULL, "fused-step00000004.safetensors")
    keeps = []

    def start(trainer, args):
        args.save_last_n_steps = 2
        real = session.Session.begin

        def begin(self):
            keeps.append(self.args.save_last_n_steps)
            real(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session.Session, "begin", begin)
            run_trainer(trainer, args)

    toolkit(start=start, save_every_n_steps=2, save_state=False)
    assert keeps == [2, 2, 2, 2, None, None]


def test_if_no_place_takes_it_what_there_is_is_named(toolkit, refusing):
    refusing(FULL, "fused.safetensors", ("out", "working", "temporary", "home"))
    with pytest.raises(TrainingError) as error:
        toolkit(start=run_trainer, save_every_n_steps=4)
    kept = toolkit.out / "fused-step00000004"
    assert str(error.value).startswith("fused.safetensors cannot be saved (")
    assert str(error.value).endswith(f"Already saved and complete: {kept}.safetensors and {kept}-state.")


def test_what_ctrl_c_saves_goes_elsewhere(toolkit, refusing, places):
    refusing(FULL, "", ("out",))
    with pytest.raises(Stopped) as stopped:
        toolkit(start=interrupt_at(3), gradient_accumulation_steps=2, save_every_n_steps=100)
    saved = places / "working" / "fused-step00000003"
    assert str(stopped.value) == f"stopped after step 3, saved {saved}.safetensors. Resume with: --resume {saved}-state"
    assert load_file(f"{saved}.safetensors") and (Path(f"{saved}-state") / "model.safetensors").is_file()


def test_a_killed_save_leaves_nothing_under_a_final_name(toolkit, monkeypatch):
    """The toolkit writes in place; here it writes beside, whatever it writes."""
    seen = []

    def replace(source, target):
        seen.append((Path(source), Path(target)))
        assert not Path(target).exists()
        return os.rename(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    toolkit(start=run_trainer, save_every_n_steps=3)
    names = [target.name for _, target in seen]
    assert {"fused-step00000003.safetensors", "fused-step00000003-state", "fused.safetensors"} <= set(names)
    for source, target in seen:
        temporary = source if files.TEMPORARY.fullmatch(source.name) else source.parent
        assert files.TEMPORARY.fullmatch(temporary.name)["name"] == target.name


def test_a_link_is_not_written_through(toolkit, places):
    mine = places / "mine"
    mine.write_text("mine", encoding="utf-8")
    toolkit.out.mkdir(exist_ok=True)
    (toolkit.out / "fused.safetensors").symlink_to(mine)
    toolkit(start=run_trainer)
    assert mine.read_text(encoding="utf-8") == "mine" and load_file(toolkit.out / "fused.safetensors")


def test_a_start_removes_what_killed_runs_of_its_name_left(toolkit):
    toolkit.out.mkdir(exist_ok=True)
    left = [files._temporary_name(toolkit.out / name) for name in ("fused.safetensors", "other.safetensors")]
    for part in left:
        part.mkdir()
    with sole_writer(toolkit.out, "fused"):
        toolkit(start=run_trainer)
    assert [part.exists() for part in left] == [False, True]


def test_the_log_costs_no_training(toolkit, monkeypatch, capsys):
    from danceopd_ext.toolkits.log_file import LogFile

    real, calls = LogFile._append, [0]

    def append(self, text):
        calls[0] += 1
        if calls[0] in (2, 3):
            raise FULL
        real(self, text)

    monkeypatch.setattr(LogFile, "_append", append)
    toolkit(start=run_trainer)
    assert [record["step"] for record in records(toolkit.out)] == [1, 2, 3, 4, 5, 6]
    assert capsys.readouterr().out.count("cannot be written: no space is left on the disk") == 1


def toolkits_own(trainer) -> type:
    """The toolkit's class below ours."""
    return next(one for one in type(trainer).__mro__ if one.__name__ == "StandInTrainer")


@pytest.mark.parametrize("what", ["picture", "folder", "prompts"])
def test_pictures_cost_no_training_and_are_told_once(toolkit, monkeypatch, capsys, what):
    """A picture that is not saved does not end the drawing: the toolkit then puts everything back."""
    drawn, mended = [], []

    def draw(self, accelerator, args, epoch, global_step, vae, transformer, *rest):
        if what == "folder":
            raise FULL
        if what == "prompts":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "prompts.txt")
        Image.new("RGB", (2, 2)).save(Path(args.output_dir) / "sample.png")
        drawn.append(1)

    def full(image, path, *given, **named):
        raise FULL

    monkeypatch.setattr(Image.Image, "save", full)

    def start(trainer, args):
        monkeypatch.setattr(toolkits_own(trainer), "sample_images", draw)
        monkeypatch.setattr(
            torch.nn.Module, "switch_block_swap_for_training", lambda _: mended.append(1), raising=False
        )
        run_trainer(trainer, args)

    trainer = toolkit(start=start)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("pictures are not saved")]
    assert len(said) == 1 and "Training goes on" in said[0]
    assert len(records(toolkit.out)) == 6 and Image.Image.save is full
    assert bool(drawn) == (what == "picture")
    if hasattr(trainer, "on_train_start"):
        assert bool(mended) == (what != "picture")


def test_a_fault_while_drawing_is_not_hidden(toolkit, monkeypatch):
    def draw(self, accelerator, args, epoch, global_step, vae, transformer, *rest):
        raise OSError("cannot write mode RGBA as JPEG")

    def start(trainer, args):
        monkeypatch.setattr(toolkits_own(trainer), "sample_images", draw)
        run_trainer(trainer, args)

    with pytest.raises(OSError, match="mode RGBA"):
        toolkit(start=start)


def test_a_full_disk_anywhere_else_is_one_message(toolkit):
    """Such as in a cache that the toolkit writes."""

    def start(trainer, args):
        def full(*_, **__):
            raise FULL

        trainer.process_batch = full
        run_trainer(trainer, args)

    with pytest.raises(TrainingError, match=r"^no space is left on the disk \(.*\)\. Free some space\.$"):
        toolkit(start=start)


def test_trackers_cost_no_training():
    said, calls = [], []

    def log(values, step):
        calls.append(step)
        raise FULL

    tracker = SimpleNamespace(name="tensorboard", log=log, finish=lambda: calls.append("finish"))
    tracker_guard.guard_trackers(SimpleNamespace(trackers=[tracker]), said.append)
    for step in (1, 2):
        tracker.log({}, step=step)
    tracker.finish()
    assert calls == [1] and len(said) == 1
    assert "tensorboard is turned off for the rest of the run: no space is left" in said[0]
