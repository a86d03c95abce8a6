"""The cost of a step by itself, from trainings that are made for it."""

import json
from types import SimpleNamespace

import pytest

from danceopd_ext.errors import UserError
from danceopd_ext.reproduce.budgets import BUDGETS
from danceopd_ext.reproduce.seconds import WARM_UP, StepCost, main, step_cost


def test_the_first_steps_and_a_disturbed_one_do_not_count(tmp_path):
    log = tmp_path / "student.log.jsonl"
    slow = [{"forwards": 99, "samples": 9, "student_forwards_per_sample": 9.0, "seconds": 50.0}] * WARM_UP
    rows = [
        {"forwards": forwards, "samples": 4, "student_forwards_per_sample": 0.5, "seconds": seconds}
        for forwards, seconds in ((10, 1.0), (20, 1.5), (30, 40.0))
    ]
    log.write_text("\n".join(map(json.dumps, [*slow, *rows])), encoding="utf-8")
    assert step_cost(SimpleNamespace(log=log)) == StepCost(forwards=20, backwards=2, seconds=1.5)


def test_rows_are_timed_one_by_one(pretrained, here, tmp_path, capsys):
    words = ["--budget", "smoke", "--steps", "2", "--sources", str(pretrained.folder), "--out", str(tmp_path)]
    main(["composition", *words, "--only", "joint training", "DanceOPD"], start=here)
    lines = (tmp_path / "seconds" / "composition-seconds.md").read_text(encoding="utf-8").split("\n")
    assert "\n".join(lines) in capsys.readouterr().out
    assert lines[0] == "| model | forwards a step | with backward | seconds a step |"
    rows = {cells[0]: [float(cell) for cell in cells[1:]] for cells in (line[2:-2].split(" | ") for line in lines[2:4])}
    samples = BUDGETS["smoke"].samples
    assert rows["joint training"][:2] == [samples, samples]
    assert rows["DanceOPD"][0] > samples == rows["DanceOPD"][1]
    assert all(row[2] > 0 for row in rows.values()) and lines[4:] == [""]


def test_a_row_that_is_not_there_is_refused(pretrained):
    with pytest.raises(UserError, match=r"--only Dance: unknown row\. The table has the rows"):
        main(["composition", "--only", "Dance", "--sources", str(pretrained.folder)])
