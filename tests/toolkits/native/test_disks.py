"""What the disk does not take ends no training, and the finished LoRA is somewhere."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from danceopd_ext import files
from danceopd_ext.cli import run
from danceopd_ext.data.text_cache import TextCache
from danceopd_ext.errors import Stopped, TrainingError
from danceopd_ext.toolkits.native import journal as journal_module
from danceopd_ext.toolkits.native import output as output_module
from danceopd_ext.toolkits.native import train as train_module
from danceopd_ext.toolkits.native.journal import Journal
from danceopd_ext.toolkits.run import main
from tests.tiny.presets import write_preset
from tests.toolkits.runs import forget_accelerate, log_of, same_tensors

pytestmark = pytest.mark.usefixtures("places")

#: what disks say, and what the user reads
PROBLEMS = {
    "full": (OSError(errno.ENOSPC, "No space left on device"), "no space is left on the disk"),
    "full, by safetensors": (SafetensorError("I/O error: No space left (os error 28)"), "no space is left on the disk"),
    "read-only": (OSError(errno.EROFS, "Read-only file system"), "the disk is now read-only"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk quota is used up"),
    "limit": (OSError(errno.EFBIG, "File too large"), "the file is larger than the disk"),
    "broken": (OSError(errno.EIO, "Input/output error"), "the disk reports an error"),
    "immutable": (PermissionError(errno.EPERM, "Operation not permitted"), "the file or folder is protected"),
    "removed": (FileNotFoundError(errno.ENOENT, "No such file or directory"), "the folder is gone"),
    "a file in its place": (FileExistsError(errno.EEXIST, "File exists"), "something else has this name"),
    "a rare one": (OSError(errno.ENOLCK, "No locks available"), "No locks available"),
    "network": (OSError(errno.ESTALE, "Stale file handle"), "the drive does not answer"),
}
each_problem = pytest.mark.parametrize(("problem", "reason"), PROBLEMS.values(), ids=PROBLEMS.keys())
#: one of each way in which they are met, where all come through the same door (see test_disk_errors.py)
SOME = ("full", "immutable", "removed")
some_problems = pytest.mark.parametrize(("problem", "reason"), [PROBLEMS[name] for name in SOME], ids=SOME)


@pytest.fixture
def preset(pipelines, two_teachers, tmp_path):
    return write_preset(tmp_path, pipelines["sd3"], two_teachers["sd3"], max_train_steps=4, rollout_steps=2)


@pytest.fixture(scope="module")
def whole(pipelines, two_teachers, tmp_path_factory) -> Path:
    """The LoRA of the run that nothing disturbs."""
    forget_accelerate()
    folder = tmp_path_factory.mktemp("whole")
    keys = {"max_train_steps": 4, "rollout_steps": 2}
    main(["--config", str(write_preset(folder, pipelines["sd3"], two_teachers["sd3"], **keys))])
    return folder / "output" / "fused.safetensors"


# --- saves


@each_problem
def test_a_save_between_steps_costs_no_training(preset, refusing, launch, capsys, problem, reason):
    refusing(problem, "fused-step00000002.safetensors")
    output = launch(preset, "--save_every_n_steps", "2")
    said = capsys.readouterr().out
    assert (output / "fused.safetensors").is_file()
    assert not [*output.glob(".*")]
    if reason.startswith("the file or folder"):  # another name may do
        assert (output / "fused-step00000002-2.safetensors").is_file()
    else:
        assert (
            f"{reason}" in said
            and "for fused-step00000002.safetensors: it is not saved, and training continues" in said
        )
        assert sorted(path.name for path in output.glob("*.safetensors")) == ["fused.safetensors"]


@each_problem
def test_the_last_lora_goes_elsewhere(preset, whole, refusing, launch, capsys, problem, reason):
    """It is told where it is and why, and the LoRA there is that of a run that nothing disturbs."""
    refusing(problem, ".safetensors")
    capsys.readouterr()
    launch(preset)
    said = capsys.readouterr().out
    found = preset.parent / "working" / "fused.safetensors"
    assert f"saved {found}, not in {preset.parent / 'output'}: {reason}" in said
    assert said.strip().splitlines()[-1] == f"done: {found}"
    assert same_tensors(found, whole)


@pytest.mark.parametrize(
    ("full", "found"), [(("output", "working"), "temporary"), (("output", "working", "temporary"), "home")]
)
def test_place_after_place_is_tried(preset, refusing, launch, full, found):
    refusing(PROBLEMS["full"][0], ".safetensors", full)
    launch(preset)
    assert load_file(preset.parent / found / "fused.safetensors")


def test_if_no_place_takes_it_what_there_is_is_named(preset, refusing, capsys):
    refusing(PROBLEMS["full"][0], "fused.safetensors", ("output", "working", "temporary", "home"))
    forget_accelerate()
    assert run(main, ["--config", str(preset), "--save_every_n_steps", "3", "--save_state"]) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    kept = preset.parent / "output" / "fused-step00000003"
    assert told.startswith("stopped: fused.safetensors cannot be saved (")
    assert all(
        f"{preset.parent / name}: no space is left" in told for name in ("output", "working", "temporary", "home")
    )
    assert told.endswith(f"Already saved and complete: {kept}.safetensors and {kept}-state.")
    assert load_file(f"{kept}.safetensors")


def test_nothing_is_said_of_earlier_saves_if_there_are_none(preset, refusing):
    refusing(PROBLEMS["full"][0], ".safetensors", ("output", "working", "temporary", "home"))
    forget_accelerate()
    with pytest.raises(TrainingError) as error:
        main(["--config", str(preset)])
    assert "before" not in str(error.value)


def test_the_lora_is_kept_if_the_state_is_not(preset, refusing, launch, capsys):
    refusing(PROBLEMS["full"][0], "-state", ("output", "working", "temporary", "home"))
    output = launch(preset, "--save_state", "--save_every_n_steps", "2")
    said = capsys.readouterr().out
    assert (output / "fused.safetensors").is_file() and (output / "fused-step00000002.safetensors").is_file()
    assert "no space is left on the disk for fused-step00000002-state: it is not saved, and training continues" in said
    lora = output / "fused.safetensors"
    assert f"No state was saved (no space is left on the disk): --network_weights {lora} starts a new run" in said
    assert not [*preset.parent.rglob("*-state")]


def interrupted_at(step: int, monkeypatch) -> None:
    """Ctrl-C while that step is logged."""
    real = Journal.record

    def record(self, number, *given):
        real(self, number, *given)
        if number == step:
            self.stop.requested = True

    monkeypatch.setattr(Journal, "record", record)
    make = train_module.Run.__init__

    def made(self, *given):
        make(self, *given)
        self.journal.stop = self.stop

    monkeypatch.setattr(train_module.Run, "__init__", made)


def test_what_ctrl_c_saves_goes_elsewhere_and_can_be_resumed(preset, whole, refusing, launch, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted_at(2, patch)
        refusing(PROBLEMS["full"][0], "")
        with pytest.raises(Stopped) as stopped:
            launch(preset)
    monkeypatch.setattr(files.os, "replace", os.rename)
    state = preset.parent / "working" / "fused-step00000002-state"
    assert f"Resume with: --resume {state}" in str(stopped.value)
    assert load_file(preset.parent / "working" / "fused-step00000002.safetensors")
    output = launch(preset, "--resume", state)
    assert same_tensors(output / "fused.safetensors", whole)


def test_what_is_kept_before_an_error_goes_elsewhere(preset, refusing, monkeypatch):
    def broken(self, *given):
        if self.step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, *given)

    real = train_module.Run.gradient
    monkeypatch.setattr(
        train_module.Run, "gradient", lambda self: _out_of_memory(self) if self.step == 2 else real(self)
    )
    refusing(PROBLEMS["full"][0], "")
    forget_accelerate()
    with pytest.raises(TrainingError) as error:
        main(["--config", str(preset)])
    found = preset.parent / "working" / "fused-step00000002"
    assert f"saved in {found}.safetensors. Resume with: --resume {found}-state" in str(error.value)


def _out_of_memory(training):
    raise TrainingError(f"out of GPU memory.{training.keep_what_is_good()}")


def test_an_error_is_told_even_if_nothing_can_be_kept(preset, refusing, monkeypatch):
    real = train_module.Run.gradient
    monkeypatch.setattr(
        train_module.Run, "gradient", lambda self: _out_of_memory(self) if self.step == 2 else real(self)
    )
    refusing(PROBLEMS["full"][0], "", ("output", "working", "temporary", "home"))
    forget_accelerate()
    with pytest.raises(TrainingError, match=r"out of GPU memory\. The weights of step 2 are lost: .*no space is left"):
        main(["--config", str(preset)])


@pytest.mark.parametrize("ending", [".safetensors", "-state"])
def test_a_lora_that_a_ui_has_open_is_saved_under_another_name(preset, refusing, launch, capsys, ending):
    refusing(PermissionError(errno.EACCES, "in use"), f"fused{ending}")
    output = launch(preset, "--save_state")
    found = output / ("fused-2.safetensors" if ending == ".safetensors" else "fused-state-2")
    assert f"saved {found}: fused{ending} cannot be replaced" in capsys.readouterr().out
    assert found.exists() and not (output / f"fused{ending}").exists()


def test_a_fault_of_ours_is_not_taken_for_a_disk(preset, launch, monkeypatch):
    def fault(*_):
        raise RuntimeError("written LoRA reads back with a different change")

    monkeypatch.setattr(output_module, "write_lora", fault)
    with pytest.raises(RuntimeError, match="reads back"):
        launch(preset, "--save_every_n_steps", "2")


def test_a_merge_goes_elsewhere(preset, refusing, launch, capsys):
    refusing(PROBLEMS["read-only"][0], ".safetensors")
    launch(preset, "--method", "merge_average")
    found = preset.parent / "working" / "fused.safetensors"
    assert f"done: {found}" in capsys.readouterr().out and load_file(found)


# --- pictures, the log, trackers


@pytest.fixture
def sampling(tmp_path):
    (tmp_path / "samples.txt").write_text("a red cat --w 16 --h 16 --s 2\n", encoding="utf-8")
    return ("--sample_prompts", str(tmp_path / "samples.txt"), "--sample_every_n_steps", "1")


@some_problems
def test_pictures_cost_no_training_and_are_told_once(preset, refusing, launch, sampling, capsys, problem, reason):
    refusing(problem, ".png")
    output = launch(preset, *sampling)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("the pictures")]
    assert len(log_of(output)) == 4 and (output / "fused.safetensors").is_file()
    (line,) = said
    assert reason in line and str(output / "sample" / "fused-step00000001.png") in line
    assert not [*(output / "sample").iterdir()]


def test_pictures_are_saved_again_if_there_is_room_again(preset, launch, sampling, monkeypatch):
    real, calls = Image.Image.save, []

    def save(image, path, *given, **named):
        calls.append(path)
        if len(calls) <= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(image, path, *given, **named)

    monkeypatch.setattr(Image.Image, "save", save)
    output = launch(preset, *sampling)
    assert sorted(path.name for path in (output / "sample").iterdir()) == [
        "fused-step00000003.png", "fused-step00000004.png",
    ]  # fmt: skip


@some_problems
def test_the_log_costs_no_training_and_is_completed(preset, launch, capsys, monkeypatch, problem, reason):
    real, calls = journal_module.LogFile._append, [0]

    def append(self, text):
        calls[0] += 1
        if calls[0] in (2, 3):
            raise problem
        real(self, text)

    monkeypatch.setattr(journal_module.LogFile, "_append", append)
    output = launch(preset)
    assert [entry["step"] for entry in log_of(output)] == [1, 2, 3, 4]
    said = [line for line in capsys.readouterr().out.splitlines() if "the log" in line]
    assert len(said) == 1 and reason in said[0]


@pytest.mark.parametrize("method", ["log", "log_images", "finish"])
def test_a_tracker_that_fails_costs_no_training(preset, launch, sampling, capsys, monkeypatch, method):
    from accelerate.tracking import TensorBoardTracker

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TensorBoardTracker, method, full)
    output = launch(preset, *sampling, "--log_with", "tensorboard")
    assert (output / "fused.safetensors").is_file() and len(log_of(output)) == 4
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "tensorboard" in line]
    assert "is turned off for the rest of the run: no space is left on the disk. Training goes on" in line


def test_tensorboards_own_thread_prints_no_traceback(preset, launch, capsys, monkeypatch):
    """It writes beside the training, and its error is raised in the next call."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    real, calls = RecordWriter.write, [0]

    def write(self, data):
        calls[0] += 1
        if calls[0] > 6:  # the first are written when it starts
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, data)

    monkeypatch.setattr(RecordWriter, "write", write)
    output = launch(preset, "--log_with", "tensorboard", "--max_train_steps", "8")
    told = capsys.readouterr()
    assert (output / "fused.safetensors").is_file()
    assert "Traceback" not in told.err and told.out.count("tensorboard is turned off") == 1


def test_output_on_a_full_disk_costs_no_training(preset, launch, monkeypatch):
    """`train > log.txt 2>&1`, and log.txt is on it."""

    class Full:
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

        flush = isatty = lambda self: False

    monkeypatch.setattr("sys.stdout", Full())
    monkeypatch.setattr("sys.stderr", Full())
    output = launch(preset)
    assert (output / "fused.safetensors").is_file()


# --- caches


def test_a_cache_that_is_gone_while_training(preset, monkeypatch, launch):
    """What was learnt is kept, and the message says what was not to be found."""
    real, asked = TextCache.get, [0]

    def get(self, text):
        asked[0] += 1
        if asked[0] > 9:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._memory.clear()
        return real(self, text)

    monkeypatch.setattr(TextCache, "get", get)
    forget_accelerate()
    with pytest.raises(TrainingError, match=r"no encoded prompt for .* Was a disk or the folder removed"):
        main(["--config", str(preset), "--max_train_steps", "20"])
    kept = [*(preset.parent / "output").glob("fused-step*.safetensors")]
    assert len(kept) == 1 and load_file(kept[0])


def test_a_cache_that_cannot_be_written_is_one_message(preset, refused, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("danceopd_ext.data.cache_entries.save_file", full)
    forget_accelerate()
    with pytest.raises(Exception, match=r"cache of encoded prompts cannot be written: no space is left on the disk\."):
        main(["--config", str(preset)])


# --- what killed runs left, and links


def test_a_start_removes_what_killed_runs_of_its_name_left(preset, launch):
    output = preset.parent / "output"
    (output / "sample").mkdir(parents=True)
    own = ["fused.safetensors", "fused-step00000300.safetensors", "fused-step00000300-state", "fused.log.jsonl"]
    others = ["fused-other.safetensors", "other.safetensors", "fused2-step00000001-state"]
    left = [files._temporary_name(output / name) for name in own + others]
    left.append(files._temporary_name(output / "sample" / "fused-step00000300.png"))
    for part in left:
        part.mkdir() if "-state" in part.name else part.write_bytes(b"half")
    (left[2] / "student.safetensors").write_bytes(b"half")
    launch(preset)
    gone = [part for part in left if not part.exists()]
    assert gone == [*left[: len(own)], left[-1]]


def test_a_start_removes_what_killed_runs_left_in_the_cache(preset, launch):
    cache = preset.parent / "output" / "cache"
    launch(preset)
    (key,) = cache.iterdir()
    left = files._temporary_name(key / "entry.safetensors")
    left.touch()
    prompts = Path(json.loads(preset.read_text(encoding="utf-8").partition("one = ")[2].splitlines()[0]))
    prompts.write_text("another prompt\n", encoding="utf-8")
    launch(preset, "--overwrite")
    assert not left.exists()


LINKS = {
    "fused.log.jsonl": (), "fused.safetensors": (), "fused-step00000002.safetensors": (), "fused-state": (),
    "cache": (), "cache/key": (), "sample": ("sample",), "sample/fused-step00000001.png": ("sample",),
    "logs": ("logs",), "logs/fused": ("logs",),
}  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_links_in_the_output_folder_are_refused(preset, refused, sampling, name, target):
    mine = preset.parent / "mine"
    if target != "nothing":
        (mine / "folder").mkdir(parents=True)
        (mine / "file").write_text("mine", encoding="utf-8")
    link = preset.parent / "output" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(mine / target)
    if not link.is_dir() and "." not in name and target == "file":
        return  # a file in the place of a folder is refused elsewhere
    extra = {"sample": sampling, "logs": ("--log_with", "tensorboard")}
    message = refused(preset, *(word for key in LINKS[name] for word in extra[key]), "--overwrite")
    assert f"{link} is a link to {mine / target}" in message
    if target == "file":
        assert (mine / "file").read_text(encoding="utf-8") == "mine"


def test_the_output_folder_itself_may_be_a_link(preset, launch):
    real = preset.parent / "drive"
    real.mkdir()
    (preset.parent / "output").symlink_to(real)
    launch(preset)
    assert (real / "fused.safetensors").is_file()


def test_links_that_the_run_does_not_write_are_left_alone(preset, launch):
    output = preset.parent / "output"
    output.mkdir()
    mine = preset.parent / "mine"
    mine.mkdir()
    for name in ("logs", "sample", "other.safetensors", "fused_old.safetensors"):
        (output / name).symlink_to(mine)
    launch(preset)
    assert not [*mine.iterdir()]
