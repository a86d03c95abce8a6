import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
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
    file = Path("fullset/color_alter/en/k1_SRCIMG.png")
    assert jobs[0].scorer_files == (file,)
    shown = Image.open(io.BytesIO(jobs[0].content(file)))
    assert (shown.format, shown.size) == ("PNG", (96, 64)) == ("PNG", jobs[0].picture.size)
    assert len(gedit_jobs(write_gedit(tmp_path), language="cn")) == 1
    assert len(gedit_jobs(write_gedit(tmp_path), language=None)) == 3


def test_a_source_of_16_bits_is_no_white(tmp_path):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = write_gedit(tmp_path)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    job = replace(gedit_jobs(path)[0], source=(tmp_path / "deep.png").read_bytes())
    for shown in (job.source_image(), Image.open(io.BytesIO(job.content(job.source_file)))):
        assert np.abs(np.asarray(shown) - ramp[..., None] / 257).max() <= 0.5


@pytest.mark.parametrize("mode", ["F", "I"])
def test_a_source_of_32_bits_is_named(tmp_path, mode):
    path = write_gedit(tmp_path, input_image="deep.tiff")
    Image.new(mode, (8, 8)).save(tmp_path / "deep.tiff")
    with pytest.raises(UserError, match=r"line 1: .*32-bit numbers .*8 or 16 bits"):
        gedit_jobs(path)


def test_what_is_asked_is_the_instruction_and_the_source(tmp_path):
    first, second = gedit_jobs(write_gedit(tmp_path))
    digests = {first.content_digest, second.content_digest, replace(first, source=second.source).content_digest}
    digests |= {replace(first, prompt="other").content_digest, replace(first, source=None).content_digest}
    assert len(digests) == 5
    again = gedit_jobs(write_gedit(tmp_path))[0]
    assert again.content_digest == first.content_digest


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ('{"tag": "x"}', '"prompt" is missing'),
        ("", "no prompts to draw"),
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
        ({"key": "../../k"}, "cannot be used as a file name"),
        ({"task_type": ".."}, "cannot be used as a file name"),
        ({"task_type": "\u202eabc"}, r"'\\u202eabc' cannot be used as a file name"),
        ({"input_image": "gone.png"}, "gone.png: picture not found"),
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
    with pytest.raises(UserError, match="occurs twice"):
        gedit_jobs(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: table not found"):
        geneval_jobs(tmp_path / "none.jsonl", 1)
    with pytest.raises(UserError, match=r"no \.parquet file"):
        gedit_jobs(tmp_path)


def test_a_limit_ends_the_reading(tmp_path):
    """Pictures of rows that are not drawn are not looked at."""
    path = write_gedit(tmp_path)
    (tmp_path / "two.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match="line 2"):
        gedit_jobs(path)
    assert len(gedit_jobs(path, limit=1)) == 1
    assert [job.prompt for job in gedit_jobs(path, "cn", limit=1)] == ["把猫变红"]
    assert len(geneval_jobs(write_geneval(tmp_path), 2, limit=1)) == 1


def test_names_are_short_words(tmp_path):
    assert gedit_jobs(write_gedit(tmp_path), "cn")[0].name == "color_alter/cn/k3"
    assert geneval_jobs(write_geneval(tmp_path), 2)[1].name == "00001/samples/0000"
