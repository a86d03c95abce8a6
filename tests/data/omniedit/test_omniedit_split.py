"""Where an edit belongs."""

import pytest

from tests.data.omniedit.rows import table, write_data

LOCAL = ("addition", "removal", "swap", "obj_swap", "attribute_modification")
#: they have the letters of global ones within
INSIDE = ("highlight_removal", "stone_swap", "envelope", "swap_the_envelope", "hairstyle", "envy")


def test_a_task_that_no_row_has_is_told(omniedit, tmp_path, capsys):
    omniedit.main([str(write_data(tmp_path)), "--out", str(tmp_path / "out"), "--task", "swop=global"])
    assert (
        "note: --task swop: none of the rows that were read has this task; their tasks are " in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("route", "task"),
    [
        *(("global", word) for word in ("style", "background", "env", "weather", "light", "tone")),
        *(("global", task) for task in ("style_transfer", "Background_Change", "environment", "lighting")),
        *(("global", task) for task in ("change-ENV", "Env2", "2tones", "season, weather", "new styles")),
        *(("local", task) for task in (*LOCAL, *INSIDE)),
        ("local", "a task that nobody has heard of"),
    ],
)
def test_every_task_has_a_route(omniedit, tmp_path, route, task):
    """An unknown task counts as local; --task moves any."""
    other = {"local": "global", "global": "local"}[route]
    path = write_data(tmp_path, task=task)
    omniedit.main([str(path), "--out", str(tmp_path / "out")])
    assert table(tmp_path / "out" / f"{route}.csv")[0]["prompt"] == "edit 0"
    omniedit.main([str(path), "--out", str(tmp_path / "moved"), "--task", f"{task}={other}"])
    assert table(tmp_path / "moved" / f"{other}.csv")[0]["prompt"] == "edit 0"


def test_the_tasks_above_are_all_that_the_script_knows(omniedit):
    words = ("style*", "background*", "env", "environment*", "weather*", "light*", "tone*")
    assert words == omniedit.GLOBAL_WORDS
