"""Lines of preview prompts: where one ends, and the source images that it names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from danceopd_ext.data.prompts import read_prompts
from danceopd_ext.errors import UserError
from danceopd_ext.models.family import SizeLimits
from danceopd_ext.toolkits.native.prompt_lines import parse_line, read_preview_prompts
from tests.tiny.edit_files import editor, save


@pytest.fixture
def read(tmp_path):
    """Write a file of preview prompts and read it."""

    def read(content, folder=tmp_path):
        (folder / "samples.txt").write_text(content, encoding="utf-8")
        source = SimpleNamespace(
            family=SimpleNamespace(size_limits=lambda *_: SizeLimits(16, 1024)), vae_scale_factor=8
        )
        return read_preview_prompts(str(folder / "samples.txt"), source, {}, editor(), (64, 48))

    return read


@pytest.mark.parametrize("mark", ["\u2028", "\u0085", "\x0c"])
def test_only_line_ends_end_a_line(read, mark):
    assert [prompt.prompt for prompt in read(f"a{mark}cat\n# not this\na dog\n")] == [f"a{mark}cat", "a dog"]


def test_a_source_image_beside_the_file_comes_before_one_of_the_working_directory(read, tmp_path, monkeypatch):
    for name in ("here", "there"):
        save(tmp_path / name / "a.png")
    monkeypatch.chdir(tmp_path / "here")
    (prompt,) = read("add a hat --ci a.png", tmp_path / "there")
    assert prompt.sources == (tmp_path / "there" / "a.png",)


def test_a_source_image_may_stand_in_quotes():
    line = parse_line(r'add a hat --ci "C:\my pictures\1.png" --w 64')
    assert (line.sources, line.width) == ((Path(r"C:\my pictures\1.png"),), 64)
    with pytest.raises(ValueError, match="names no source image"):
        parse_line('add a hat --ci ""')


@pytest.mark.parametrize("value", ["nan", "inf", "abc", ""])
def test_a_scale_that_is_no_number(value):
    with pytest.raises(ValueError, match="--l takes a number, not"):
        parse_line(f"a cat --l {value}")


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("a cat", (64, 48)),
        ("a cat --w 32", (32, 48)),
        ("add a hat --ci wide.png", (80, 32)),
        ("add a hat --ci wide.png --w 32 --h 32", (32, 32)),
    ],
)
def test_a_line_without_a_size_has_that_of_a_routes_prompt(read, tmp_path, line, size):
    save(tmp_path / "wide.png", (120, 60))
    (prompt,) = read(line)
    assert (prompt.width, prompt.height) == size
    (tmp_path / "p.txt").write_text(line + "\n", encoding="utf-8")
    (item,) = read_prompts(tmp_path / "p.txt", [(64, 48)], multiple=16)[0]
    assert item.size == size


def test_a_source_image_that_gives_no_size_is_named(read):
    with pytest.raises(UserError, match=r"samples.txt, line 1: its source image .*none.png"):
        read("add a hat --ci none.png")
