"""A run does not replace an earlier run's LoRA or state unless it is told to."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.earlier import earlier_results, refuse_overwriting
from tests.tiny.presets import write_preset
from tests.toolkits.conftest import QUICK, log_of, same_tensors, says, two_processes
from tests.toolkits.test_native_interrupted import ENVIRONMENT, ROOT


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
    says(told, "fused.safetensors is there already", "another output_name", "--overwrite")
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
    says(told, "and 4 more of that name", f"--resume {output.name}")
    assert "fused-step00000002-state," in told
    launch(preset(max_train_steps=4), "--resume", "output/fused-step00000002-state")
    assert [entry["step"] for entry in log_of(output)] == [1, 2, 3, 4]


def test_a_state_of_another_folder_is_no_leave_to_overwrite(preset, launch, refused, tmp_path):
    output = launch(preset(max_train_steps=3, save_every_n_steps=1, save_state=True))
    shutil.copytree(output / "fused-step00000002-state", tmp_path / "elsewhere" / "fused-step00000002-state")
    words = ["--resume", tmp_path / "elsewhere" / "fused-step00000002-state"]
    says(refused(preset(max_train_steps=3), *words), "is there already")
    launch(preset(max_train_steps=3), *words, "--output_name", "other")


def test_a_finished_run_is_continued_with_more_steps(preset, launch, refused):
    launch(preset(save_state_on_train_end=True))
    says(refused(preset()), "--resume output/fused-state and a larger max_train_steps")


def test_what_is_replaced_is_told(preset, launch, capsys):
    launch(preset(save_every_n_steps=1))
    capsys.readouterr()
    launch(preset(overwrite=True))
    assert "note: overwrite: an earlier run's LoRAs and states (2 in all)" in capsys.readouterr().out


def test_a_log_without_a_result_is_told_and_replaced(preset, launch, capsys):
    """A run that broke down before its first save keeps nobody from trying again."""
    output = launch(preset())
    (output / "fused.safetensors").unlink()
    launch(preset())
    assert "fused.log.jsonl of an earlier run that saved nothing is replaced" in capsys.readouterr().out


def test_a_merge(preset, launch, refused):
    output = launch(preset(method="merge_average", prompts={}))
    says(refused(preset(method="merge_average", prompts={})), "is there already")
    first = output / "first.safetensors"
    shutil.copy(output / "fused.safetensors", first)
    launch(preset(method="merge_sum", prompts={}, overwrite=True))
    assert not same_tensors(output / "fused.safetensors", first)


def test_two_processes(preset, launch):
    """The first one's files are not taken for an earlier run's by the other, and both refuse."""
    training = [str(ROOT / "train_danceopd.py"), "--config", str(preset())]
    first, second = (
        subprocess.run(
            [sys.executable, *two_processes(), *training], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
        )
        for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert second.returncode != 0
    assert second.stderr.count("error: ") == 1 and "is there already" in second.stderr


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
    with pytest.raises(UserError, match="is there already"):
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
