"""What the quickstart leaves: scores by the world's checks, a table and a grid, whatever the models can do."""

import json

import numpy as np
import pytest

from danceopd_ext.demo import report
from danceopd_ext.demo.edits import EDIT_KINDS
from danceopd_ext.demo.report_tasks import DRAWINGS, EDITS, OWNERS, Drawings, Edits, tasks
from danceopd_ext.demo.splits import split_of
from danceopd_ext.demo.world import SKILLS, render
from scripts.update_readme import quickstart_table


@pytest.fixture(scope="module")
def asked():
    return tasks()


def answers(task):
    """Right pictures of a task."""
    return np.stack([render(scene) for scene in _scenes(task)])


def _scenes(task):
    return task.scenes if isinstance(task, Drawings) else [edit.target for edit in task.edits]


def test_every_skill_is_asked_on_held_out_prompts_and_has_an_owner(asked):
    assert list(asked) == [*SKILLS, *EDIT_KINDS] == list(OWNERS)
    assert {len(task.texts) for name, task in asked.items() if name in SKILLS} == {DRAWINGS}
    assert {len(task.texts) for name, task in asked.items() if name in EDIT_KINDS} == {EDITS}
    assert not any(edit.source == edit.target for name in EDIT_KINDS for edit in asked[name].edits)
    train = {text for skill in SKILLS.values() for text, _ in skill.prompts("train")}
    assert not train & {text for name in SKILLS for text in asked[name].texts}
    local = [edit for name in EDIT_KINDS if EDIT_KINDS[name].scope == "local" for edit in asked[name].edits]
    assert {split_of(edit.instruction) for edit in local} == {"test"}


def test_right_pictures_are_worth_one_and_sources_nothing(asked):
    for task in asked.values():
        assert task.marks(answers(task)) == [1.0] * len(task.texts)
        wrong = task.sources() if task.sources() is not None else np.zeros((len(task.texts), 32, 32, 3), np.uint8)
        assert task.marks(wrong) == [0.0] * len(task.texts)


@pytest.fixture
def told(asked, monkeypatch, tmp_path, capsys):
    """(report.json, what is printed) where each teacher is right on its own skills, and no other model on any."""
    state = {}

    def answer(pipeline, items, seed):
        task = items[0]
        if OWNERS[next(name for name, one in asked.items() if one is task)] == state["model"]:
            return answers(task)
        return np.full((len(task.texts), 32, 32, 3), 128, np.uint8)

    def use(pipeline, strengths):
        state["model"] = pick_model(strengths)

    for kind in (Drawings, Edits):
        monkeypatch.setattr(kind, "encode", lambda self, pipeline: [self])
    monkeypatch.setattr(report, "tasks", lambda: asked)
    monkeypatch.setattr(report, "draw", answer)
    monkeypatch.setattr(report, "use", use)
    monkeypatch.setattr(report, "load", lambda file: None)
    (tmp_path / "fused.log.jsonl").write_text('{"step": 1}\n{"peak_memory_mb": 12.5}\n', encoding="utf-8")
    report.main(tmp_path, {"train": 30.0, "before": 60.0})
    return json.loads((tmp_path / "report.json").read_text(encoding="utf-8")), capsys.readouterr().out, tmp_path


def pick_model(strengths):
    names = list(strengths)
    if not names:
        return "base"
    return f"teacher:{names[0]}" if len(names) == 1 and names[0] != "student" else "another"


def test_the_report_holds_who_can_what(told):
    found, _, folder = told
    assert list(found) == [
        "scores", "owners", "merge_is", "images_per_score", "seconds", "peak_memory_mb", "versions",
    ]  # fmt: skip
    for skill, row in found["scores"].items():
        assert {name for name, score in row.items() if score == 1} == {OWNERS[skill]}
    assert found["peak_memory_mb"] == 12.5
    assert found["seconds"]["total"] >= 60
    assert found["images_per_score"]["subject add"] == EDITS
    assert (folder / "grid.png").stat().st_size > 10_000


def test_the_tables_mark_owners_and_the_worst_skill(told):
    found, printed, _ = told
    row = next(line for line in printed.splitlines() if line.startswith("colour alter"))
    assert row.split()[2:] == ["0.00", "0.00", "0.00", "1.00*", "0.00", "0.00", "0.00"]
    table = quickstart_table(found).splitlines()
    assert table[0].startswith("| skill | base | teacher:hollow | teacher:checkered | teacher:edit | merge_average |")
    assert [line.split(" | ")[0].strip("| ") for line in table[2:13]] == [*SKILLS, *EDIT_KINDS, "worst"]
    assert "| colour alter | 0.00 | 0.00 | 0.00 | **1.00** | 0.00 | 0.00 | 0.00 |" in table
    assert table[12] == "| worst | 0.00 | 0.00 | 0.00 | 0.00 | 0.00 | 0.00 | 0.00 |"
    assert f"at least {EDITS} pictures a score" in table[-1]


def test_the_better_merge_has_the_better_worst_skill():
    scores = {"single": {"merge_average": 0.4, "merge_sum": 1.0}, "hollow": {"merge_average": 0.3, "merge_sum": 0.2}}
    assert report.add_better_merge(scores) == "merge_average"
    assert [row["merge"] for row in scores.values()] == [0.4, 0.3]


def test_the_grid_shows_what_the_owner_does_right():
    def first(*marks):
        return report.shown(report.Answers(np.zeros((len(marks), 1)), list(marks)))

    assert first(1.0, 1.0, 0.0, 0.9, 1.0, 1.0) == 4
    assert first(0.0, 0.0, 1.0, 0.0) == 2
    assert first(1.0, 1.0, 0.0, 0.5) == 2, "where there is none: the middle, as it is"
