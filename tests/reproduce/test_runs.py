"""Which runs are done, done again, or gone on with; and what they are told."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import toml

from danceopd_ext.config.load import load_preset
from danceopd_ext.demo import FOLDER
from danceopd_ext.errors import TrainingError, UserError
from danceopd_ext.reproduce.budgets import BUDGETS
from danceopd_ext.reproduce.plan import plan_table
from danceopd_ext.reproduce.presets import plan_run, samples_of_a_micro_batch
from danceopd_ext.reproduce.pretrained import Pretrained, find_pretrained
from danceopd_ext.reproduce.runner import STARTED, STOPPING, newest_state, start_process, train_missing
from danceopd_ext.reproduce.tables import ABSORB, LEARNERS, T2I_EDIT, TABLES, Row
from tests.toolkits.runs import same_tensors

SMOKE = BUDGETS["smoke"]
LONGER = replace(SMOKE, steps=4)
DANCE = Row("DanceOPD", teachers=T2I_EDIT)


def done(run, arguments, told):
    """A training that is done at once."""
    run.lora.write_bytes(b"")
    return 0


# ----------------------------------------------------------------------------- missing, done, cut off


def test_a_killed_run_goes_on_where_it_was(pretrained, forked, tmp_path):
    """Killed in its third step, gone on with by the real process, and the same LoRA as one that was not killed."""
    run = plan_run(DANCE, 0, LONGER, pretrained, tmp_path)

    def killed(run, arguments, told):
        done = forked.run("tests/toolkits/native/driver.py", "step:3", *arguments[1:])
        told.write_text(done.stdout + done.stderr, encoding="utf-8")
        return done.returncode

    with pytest.raises(TrainingError, match=r"1 of 1 runs did not finish; see .*train\.log"):
        train_missing([run], 1, killed)
    state = newest_state(run.folder)
    assert state is not None
    assert state.name == "student-step00000002-state"

    used: list[list[str]] = []

    def real(run, arguments, told):
        used.append(list(arguments))
        return start_process(run, arguments, told)

    assert train_missing([run], 1, real) == 1
    assert used == [["--config", str(run.folder / "preset.toml"), "--overwrite", "--resume", str(state)]]
    steps = [json.loads(line)["step"] for line in run.log.read_text(encoding="utf-8").splitlines()]
    assert steps == [1, 2, 3, 4]
    assert train_missing([run], 1, real) == 0

    whole = plan_run(DANCE, 0, LONGER, pretrained, tmp_path / "whole")
    assert whole.folder.name == run.folder.name
    train_missing([whole], 1, start_process)  # a process of its own: what ran in this one before could leave traces
    assert same_tensors(run.lora, whole.lora)


def test_a_failed_run_is_named_and_the_others_are_finished(pretrained, tmp_path):
    runs = [plan_run(DANCE, seed, SMOKE, pretrained, tmp_path) for seed in range(3)]

    def one_fails(run, arguments, told):
        if run is not runs[1]:
            return done(run, arguments, told)
        told.write_text("training 1/2\rtraining 2/2\nerror: no room\n\n", encoding="utf-8")
        return -signal.SIGKILL

    with pytest.raises(TrainingError, match=rf"1 of 3 .*{runs[1].folder.name}.*which ends with: error: no room"):
        train_missing(runs, 2, one_fails)
    assert [run.lora.is_file() for run in runs] == [True, False, True]


def test_a_stopped_reproduction_ends_the_trainings_that_are_under_way(pretrained, tmp_path):
    runs = [plan_run(DANCE, seed, SMOKE, pretrained, tmp_path) for seed in range(3)]
    waiting = [sys.executable, "-c", "input()"]  # for ever
    under_way = subprocess.Popen(waiting, stdin=subprocess.PIPE)
    STARTED.add(under_way)

    def stopped(run, arguments, told):
        raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            train_missing(runs, 1, stopped)
        assert under_way.wait(timeout=20) != 0
    finally:
        STARTED.discard(under_way)
        under_way.kill()
        under_way.communicate()


def test_a_training_that_starts_after_the_stop_ends_at_once(pretrained, tmp_path, monkeypatch):
    run = plan_run(DANCE, 0, SMOKE, pretrained, tmp_path)
    run.folder.mkdir(parents=True)
    real, waiting = subprocess.Popen, [sys.executable, "-c", "input()"]  # for ever
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: real(waiting, stdin=subprocess.PIPE))
    STOPPING.set()
    assert start_process(run, [], run.folder / "told") != 0


def test_changed_settings_are_another_run(pretrained, tmp_path):
    run = plan_run(DANCE, 0, SMOKE, pretrained, tmp_path)
    assert plan_run(DANCE, 0, SMOKE, pretrained, tmp_path).folder == run.folder
    train_missing([run], 1, done)
    changed = [
        plan_run(DANCE, 1, SMOKE, pretrained, tmp_path),
        plan_run(DANCE, 0, replace(SMOKE, steps=3), pretrained, tmp_path),
        plan_run(DANCE, 0, replace(SMOKE, examples=3), pretrained, tmp_path),
        plan_run(replace(DANCE, keys={"query": "uniform"}), 0, SMOKE, pretrained, tmp_path),
        plan_run(replace(DANCE, start="edit"), 0, SMOKE, pretrained, tmp_path),
        plan_run(replace(DANCE, full_rollout=True), 0, SMOKE, pretrained, tmp_path),
    ]
    assert len({one.folder for one in (run, *changed)}) == 1 + len(changed)
    assert train_missing([run, *changed], 2, done) == len(changed)


def test_a_changed_teacher_is_another_run_and_another_score(pretrained, tmp_path):
    own = Pretrained(tmp_path / "own")
    shutil.copytree(pretrained.folder, own.folder)
    table = TABLES["composition"](SMOKE)

    def plan():
        return plan_table(table, SMOKE, [0], own, tmp_path / "out")

    before = plan()
    shutil.copy(own.file("local_edit"), own.file("edit"))
    after = plan()
    assert not {run.folder for run in before.runs} & {run.folder for run in after.runs}
    results = [{one.row.label: one.job.result for one in some.drawn} for some in (before, after)]
    assert [label for label in results[0] if results[0][label] == results[1][label]] == ["T2I source"]


def test_a_missing_source_is_named_with_the_command_that_makes_it(pretrained, tmp_path):
    assert find_pretrained(None, {name for make in TABLES.values() for name in make(SMOKE).needed}).folder == FOLDER
    own = Pretrained(tmp_path / "own")
    with pytest.raises(UserError, match=r"pipeline.*is missing \(base\)"):
        find_pretrained(own.folder, [])
    shutil.copytree(pretrained.folder, own.folder)
    assert find_pretrained(own.folder, ["edit", "style"]).folder == own.folder
    own.file("edit").unlink()
    with pytest.raises(UserError) as error:
        find_pretrained(own.folder, TABLES["composition"](SMOKE).needed)
    assert str(own.file("edit")) in str(error.value)
    assert f"python scripts/demo_pretrain.py --out {own.folder}" in str(error.value)
    (own.pipeline / "model_index.json").write_text('{"_class_name": "ZImagePipeline"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"model_index\.json is not a ZImageOmniPipeline"):
        find_pretrained(own.folder, [])


# ----------------------------------------------------------------------------- what a run is told


def test_all_rows_have_the_same_student_steps_and_data(pretrained, tmp_path):
    same = ("network_dim", "optimizer_type", "lr_scheduler", "max_train_steps", "seed", "rollout_steps")
    runs = [
        one.run for one in plan_table(TABLES["composition"](SMOKE), SMOKE, [2], pretrained, tmp_path).drawn if one.run
    ]
    assert len(runs) == 7
    trained = [run for run in runs if not run.values["method"].startswith("merge")]
    assert len({tuple(run.values[key] for key in same) for run in trained}) == 1
    assert {str(run.values["optimizer_args"]) for run in trained} == {"['betas=0.9,0.98']"}
    rates = {run.values["method"]: run.values["learning_rate"] for run in trained}
    assert rates.pop("joint") == rates.pop("offpolicy") == 3e-3
    assert set(rates.values()) == {6e-3}
    assert len({tuple(run.prompts.items()) for run in runs}) == 1


def test_a_step_has_the_same_samples_whatever_the_method():
    for budget in BUDGETS.values():
        for routes in (1, 2):
            assert budget.samples % routes == 0
            assert samples_of_a_micro_batch("diffusionopd", routes, budget) * routes == budget.samples
        three = samples_of_a_micro_batch("diffusionopd", 3, budget) * 3
        assert budget.samples <= three < budget.samples + 3
        assert samples_of_a_micro_batch("flowopd", 2, budget) * budget.group == budget.samples
        assert samples_of_a_micro_batch("danceopd", 2, budget) == budget.samples


@pytest.mark.parametrize("method", LEARNERS.values())
def test_presets_are_read_by_both_readers(pretrained, tmp_path, method):
    run = plan_run(replace(DANCE, keys={"method": method}), 1, SMOKE, pretrained, tmp_path)
    file = tmp_path / "preset.toml"
    file.write_text(run.toml(), encoding="utf-8")
    preset = load_preset(file)
    assert preset.danceopd.method == toml.load(file)["danceopd"]["method"] == method
    assert preset.training.seed == 43
    assert preset.danceopd.teachers["edit"].lora == str(pretrained.file("edit"))
    assert preset.saving.save_state


def test_a_checkpoint_is_handed_over_as_a_folder(pretrained, tmp_path):
    run = plan_run(Row("style", teachers=ABSORB), 0, SMOKE, pretrained, tmp_path)
    folder = Path(run.teachers["style"]["checkpoint"])
    assert (folder / "model_index.json").is_file()
    weights = "diffusion_pytorch_model.safetensors"
    assert (folder / "transformer" / weights).read_bytes() == pretrained.file("style").read_bytes()
