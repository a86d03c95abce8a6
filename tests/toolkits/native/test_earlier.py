"""A run does not replace an earlier run's LoRA or state unless it is told to."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from danceopd_ext.errors import Stopped, UserError
from danceopd_ext.toolkits import earlier_results as module
from danceopd_ext.toolkits.earlier_results import earlier_results, refuse_overwriting, sole_writer
from danceopd_ext.toolkits.lock import only_run
from danceopd_ext.toolkits.native import checks
from danceopd_ext.toolkits.native import train as train_module
from tests.tiny.presets import write_preset
from tests.toolkits.runs import QUICK, log_of, same_tensors, says


@pytest.fixture
def preset(pipelines, two_teachers, tmp_path):
    """Write the same preset again, with these keys changed."""
    return lambda **keys: write_preset(
        tmp_path / "run", pipelines["sd3"], two_teachers["sd3"], **{**QUICK, "output_dir": "output", **keys}
    )


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")


def test_the_same_preset_twice(preset, launch, refused):
    """A refusal, then the three ways on: another name, the flag, the key."""
    output = launch(preset())
    told = refused(preset())
    says(told, "fused.safetensors already exists", "another output_name", "--overwrite")
    assert "--resume" not in told, "there is no state"
    before = (output / "fused.safetensors").read_bytes()
    launch(preset(), "--output_name", "second")
    assert (output / "fused.safetensors").read_bytes() == before
    launch(preset(seed=8), "--overwrite")
    assert (output / "fused.safetensors").read_bytes() != before
    launch(preset(overwrite=True))
    assert len(log_of(output)) == 2


def test_a_run_that_saved_only_on_its_way(preset, launch, refused):
    """Its last state is named, and the run goes on from it without the flag."""
    output = launch(preset(max_train_steps=4, save_every_n_steps=1, save_state=True))
    (output / "fused.safetensors").unlink()
    shutil.rmtree(output / "fused-step00000003-state")
    shutil.rmtree(output / "fused-state", ignore_errors=True)
    told = refused(preset(max_train_steps=4))
    says(told, "and 4 more files with this name", f"--resume {output.name}")
    assert "fused-step00000002-state," in told
    launch(preset(max_train_steps=4), "--resume", "output/fused-step00000002-state")
    assert [entry["step"] for entry in log_of(output)] == [1, 2, 3, 4]


def test_a_state_of_another_folder_is_no_leave_to_overwrite(preset, launch, refused, tmp_path):
    output = launch(preset(max_train_steps=3, save_every_n_steps=1, save_state=True))
    shutil.copytree(output / "fused-step00000002-state", tmp_path / "elsewhere" / "fused-step00000002-state")
    words = ["--resume", tmp_path / "elsewhere" / "fused-step00000002-state"]
    says(refused(preset(max_train_steps=3), *words), "already exists")
    launch(preset(max_train_steps=3), *words, "--output_name", "other")


def test_a_finished_run_is_continued_with_more_steps(preset, launch, refused):
    launch(preset(save_state_on_train_end=True))
    says(refused(preset()), "--resume output/fused-state and a larger max_train_steps")


def test_what_is_replaced_is_told(preset, launch, capsys):
    launch(preset(save_every_n_steps=1))
    capsys.readouterr()
    launch(preset(overwrite=True))
    assert "note: overwrite: an earlier run's LoRAs and states (2 in all)" in capsys.readouterr().out


def test_a_log_without_a_result_is_told_and_kept(preset, launch, capsys):
    """A run that broke down before its first save keeps nobody from trying again, and its log stays."""
    output = launch(preset())
    (output / "fused.safetensors").unlink()
    first = log_of(output)
    launch(preset(max_train_steps=3))
    assert f"log and pictures are kept as {Path('output', 'fused.log-1.jsonl')}" in capsys.readouterr().out
    kept = [json.loads(line) for line in (output / "fused.log-1.jsonl").read_text(encoding="utf-8").splitlines()]
    assert kept == first
    assert [entry["step"] for entry in log_of(output)] == [1, 2, 3]


def test_a_merge(preset, launch, refused):
    output = launch(preset(method="merge_average", prompts={}))
    says(refused(preset(method="merge_average", prompts={})), "already exists")
    first = output / "first.safetensors"
    shutil.copy(output / "fused.safetensors", first)
    launch(preset(method="merge_sum", prompts={}, overwrite=True))
    assert not same_tensors(output / "fused.safetensors", first)


def test_two_processes(preset, forked):
    """The first one's files are not taken for an earlier run's by the other, and both refuse."""
    training = ("train_danceopd.py", "--config", preset())
    first, again = forked.run_ranks(2, *training), forked.run_ranks(2, *training)
    assert [done.returncode for done in first] == [0, 0], first
    assert [done.returncode for done in again] == [2, 2]
    errors = "".join(done.stderr for done in again)
    assert errors.count("error: ") == 1 and "already exists" in errors


@pytest.mark.parametrize(
    "name",
    [
        "fused.safetensors", "fused-step00000300.safetensors", "fused-000002.safetensors", "fused-state",
        "fused-step00000300-state", "fused-000002-state",
    ],
)  # fmt: skip
def test_names_of_results(tmp_path, name):
    """Ours and the toolkits'."""
    (tmp_path / name).mkdir() if name.endswith("state") else (tmp_path / name).write_bytes(b"1")
    assert earlier_results(tmp_path, "fused") == [tmp_path / name]
    with pytest.raises(UserError, match="already exists"):
        refuse_overwriting(tmp_path, "fused")
    assert refuse_overwriting(tmp_path, "fused", overwrite=True) == [tmp_path / name]
    assert refuse_overwriting(tmp_path, "fuse") == []
    assert refuse_overwriting(tmp_path, "fused-step") == []


@pytest.mark.parametrize(
    "name", ["fused2.safetensors", "my-fused.safetensors", "fused-big.safetensors", "fused.txt", "cache", "sample"]
)
def test_names_of_something_else(tmp_path, name):
    (tmp_path / name).write_bytes(b"1")
    assert refuse_overwriting(tmp_path, "fused") == []


# --- places that cannot be written


@pytest.mark.parametrize("name", ["fused.log.jsonl", "fused.safetensors"])
def test_a_folder_of_the_name_of_a_file(preset, refused, tmp_path, name):
    (tmp_path / "run" / "output" / name).mkdir(parents=True)
    says(refused(preset()), name, "is a folder", "another output_name")


@pytest.mark.parametrize("name", ["cache", "sample"])
def test_a_file_of_the_name_of_a_folder(preset, refused, tmp_path, name):
    (tmp_path / "run" / "output").mkdir()
    (tmp_path / "run" / "output" / name).write_text("", encoding="utf-8")
    (tmp_path / "samples.txt").write_text("a red cat --w 16 --h 16 --s 2\n", encoding="utf-8")
    keys = {"sample_prompts": str(tmp_path / "samples.txt"), "sample_every_n_steps": 1}
    says(refused(preset(**keys)), name, "is a file", "choose another folder")


def test_a_cache_below_a_file(preset, refused, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    says(refused(preset(text_encoder_cache_dir=str(tmp_path / "file" / "cache"))), "text_encoder_cache_dir", "another")


# --- what else an earlier run may have left


@pytest.mark.parametrize("name", ["fused.ckpt", "fused-000002.pt"])
def test_other_formats_of_the_toolkits_are_results_too(tmp_path, name):
    (tmp_path / name).write_bytes(b"1")
    with pytest.raises(UserError, match="already exists"):
        refuse_overwriting(tmp_path, "fused")


def test_a_name_that_the_file_system_takes_for_the_same(tmp_path, monkeypatch):
    """As on Windows and macOS, which find FUSED-state under the name fused-state; Linux has both."""
    (tmp_path / "FUSED-state").mkdir()
    assert refuse_overwriting(tmp_path, "fused") == []
    monkeypatch.setattr(module.os.path, "lexists", lambda path: path.name.lower() == "fused-state")
    with pytest.raises(UserError, match="FUSED-state already exists"):
        refuse_overwriting(tmp_path, "fused")
    assert refuse_overwriting(tmp_path, "fused", resume=str(tmp_path / "FUSED-state")) == []


def test_a_name_that_ends_like_an_epoch(tmp_path):
    (tmp_path / "my-000002.safetensors").write_bytes(b"1")
    with pytest.raises(UserError, match="already exists"):
        refuse_overwriting(tmp_path, "my-000002")


def leftovers(folder):
    """The log and two pictures of a run, whose LoRA was moved away."""
    (folder / "sample").mkdir(parents=True)
    (folder / "fused.log.jsonl").write_text('{"step": 1}\n', encoding="utf-8")
    for name in ("fused-step00000000.png", "fused-step00000300.png", "other-step00000300.png"):
        (folder / "sample" / name).write_bytes(b"1")


def test_log_and_pictures_are_kept_aside(tmp_path):
    for number in (1, 2):
        if number == 2:
            (tmp_path / "sample" / "other-step00000300.png").unlink()
            (tmp_path / "sample").rename(tmp_path / "sample-1")
            leftovers(tmp_path)
            (tmp_path / "sample-1" / "fused-earlier-1").rename(tmp_path / "sample" / "fused-earlier-1")
        else:
            leftovers(tmp_path)
        with sole_writer(tmp_path, "fused") as notes:
            log, pictures = tmp_path / f"fused.log-{number}.jsonl", tmp_path / "sample" / f"fused-earlier-{number}"
            assert notes == [f"an earlier run's log and pictures are kept as {log} and {pictures}"]
            assert log.read_text(encoding="utf-8") == '{"step": 1}\n'
            assert len(list(pictures.iterdir())) == 2
            assert not (tmp_path / "fused.log.jsonl").exists()
            assert [path.name for path in (tmp_path / "sample").glob("*.png")] == ["other-step00000300.png"]


def test_a_run_that_goes_on_keeps_its_log_where_it_is(tmp_path):
    leftovers(tmp_path)
    state = tmp_path / "fused-step00000300-state"
    state.mkdir()
    before = sorted(tmp_path.rglob("*"))
    with sole_writer(tmp_path, "fused", resume=str(state)) as notes:
        assert notes == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_result_that_came_while_this_run_was_preparing(preset, refused, monkeypatch):
    """Another run of the name has ended between the check and the lock."""
    path = preset()
    output = path.parent / "output"
    real = module.only_run

    @contextmanager
    def late(folder, name):
        with real(folder, name) as notes:
            (output / "fused.safetensors").write_bytes(b"1")
            yield notes

    output.mkdir()
    (output / "cache").mkdir()
    (output / "fused.safetensors").write_bytes(b"1")
    monkeypatch.setattr(module, "only_run", late)
    monkeypatch.setattr(checks, "refuse_overwriting", lambda *_: [])
    says(refused(path), "fused.safetensors already exists")


def test_overwrite_deletes_nothing_before_the_first_save(preset, launch, monkeypatch):
    """A run that is stopped before it has saved leaves the earlier run's LoRA, state and log."""
    output = launch(preset(save_state_on_train_end=True))
    first = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "build_fields", fail)
    with pytest.raises(Stopped, match=r"^stopped before the first step"):
        launch(preset(overwrite=True))
    now = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    kept = {"fused.log-1.jsonl": first.pop("fused.log.jsonl"), "fused.preset-1.toml": first.pop("fused.preset.toml")}
    assert now == {**kept, **first, "fused.preset.toml": now["fused.preset.toml"]}
    assert (output / "fused-state" / "state.json").is_file()


@pytest.mark.parametrize("method", ["danceopd", "merge_average"])
def test_a_second_run_beside_the_first_is_refused(preset, refused, launch, tmp_path, method):
    prompts = {"prompts": {}} if method == "merge_average" else {}
    with only_run(tmp_path / "run" / "output", "fused"):
        told = refused(preset(method=method, **prompts))
        says(told, "another run with output_name", f"process {os.getpid()}", "choose another output_name")
        launch(preset(method=method, **prompts), "--output_name", "second")
