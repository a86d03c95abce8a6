import io
import json
from pathlib import Path

import pytest
from PIL import Image

from danceopd_ext.errors import UserError
from danceopd_ext.evaluation.jobs import gedit_jobs, geneval_jobs
from tests.evaluation.benchmarks import ROWS, write_gedit, write_geneval


def test_geneval_puts_pictures_and_metadata_where_its_scorer_reads_them(tmp_path):
    jobs = geneval_jobs(write_geneval(tmp_path), samples=2)
    assert [job.prompt for job in jobs] == [row["prompt"] for row in ROWS]
    assert [job.kind for job in jobs] == ["single_object", "counting"]
    assert jobs[1].pictures == (Path("00001/samples/0000.png"), Path("00001/samples/0001.png"))
    assert json.loads(jobs[1].files[Path("00001/metadata.jsonl")]) == ROWS[1]


def test_gedit_puts_edit_and_source_by_task_and_language(tmp_path):
    jobs = gedit_jobs(write_gedit(tmp_path))
    assert [job.prompt for job in jobs] == ["make the cat red", "the river at night"]
    assert jobs[0].pictures == (Path("fullset/color_alter/en/k1.png"),)
    source = jobs[0].files[Path("fullset/color_alter/en/k1_SRCIMG.png")]
    assert Image.open(io.BytesIO(source)).size == (96, 64)
    assert len(gedit_jobs(write_gedit(tmp_path), language="cn")) == 1
    assert len(gedit_jobs(write_gedit(tmp_path), language=None)) == 3


def test_a_condition_is_cached_by_instruction_and_source(tmp_path):
    first, second = gedit_jobs(write_gedit(tmp_path))
    assert first.key != second.key and first.key.startswith(first.prompt)
    assert geneval_jobs(write_geneval(tmp_path), 1)[0].key == ROWS[0]["prompt"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"tag": "x"}', '"prompt" is missing'),
        ("", "nothing to draw"),
    ],
)
def test_a_broken_geneval_file_is_named(tmp_path, line, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        geneval_jobs(path, 1)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "../../k"}, "cannot be a file name"),
        ({"task_type": ".."}, "cannot be a file name"),
        ({"input_image": "gone.png"}, "does not exist"),
        ({"input_image": "prompts.jsonl"}, "not a picture"),
        ({"input_image": None}, "not a picture"),
        ({"instruction": ""}, '"instruction" is missing'),
    ],
)
def test_a_broken_gedit_row_is_named(tmp_path, change, message):
    path = write_gedit(tmp_path, **change)
    with pytest.raises(UserError, match=message) as caught:
        gedit_jobs(path)
    assert f"{path}, line 1" in str(caught.value)


def test_two_rows_of_one_name_are_refused(tmp_path):
    path = write_gedit(tmp_path)
    path.write_text(path.read_text(encoding="utf-8") * 2, encoding="utf-8")
    with pytest.raises(UserError, match="named twice"):
        gedit_jobs(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        geneval_jobs(tmp_path / "none.jsonl", 1)
    with pytest.raises(UserError, match=r"no \.parquet file"):
        gedit_jobs(tmp_path)
