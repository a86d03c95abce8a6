"""A preset does not choose by itself which code runs, and one line says which checkout does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from danceopd_ext.config.hosted_preset import HostedPreset, split_preset
from danceopd_ext.config.toolkits import hosted_toolkits
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.checkout import describe, find_toolkit
from danceopd_ext.toolkits.hosted.git_files import read_remotes
from danceopd_ext.toolkits.hosted.trusted_checkout import kind_of, require_trusted
from danceopd_ext.toolkits.run import parse_command

COMMIT = "0123456789" * 4
PACKAGING = {
    "sd-scripts": ("setup.py", 'from setuptools import setup\nsetup(name = "library", packages=[])\n'),
    "musubi-tuner": ("pyproject.toml", '[project]\nname = "musubi-tuner"\nversion = "9.9"\n'),
}
TOOLKITS = pytest.mark.parametrize("toolkit", list(hosted_toolkits()))


def bare(folder: Path, toolkit: str) -> Path:
    """A folder that only has the toolkit's files, as a stranger may pack one."""
    for mark in hosted_toolkits()[toolkit].checkout.marks:
        (folder / mark).parent.mkdir(parents=True, exist_ok=True)
        (folder / mark).touch()
    return folder


def clone(folder: Path, toolkit: str, url: str | None = None, commit: str = COMMIT) -> Path:
    bare(folder, toolkit)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text(commit, encoding="utf-8")
    url = f"https://github.com/kohya-ss/{toolkit}.git" if url is None else url
    (folder / ".git" / "config").write_text(
        f'[core]\n\tbare = false\n[remote "origin"]\n\turl = {url}\n\tfetch = +refs/heads/*\n', encoding="utf-8"
    )
    return folder


def release(folder: Path, toolkit: str) -> Path:
    bare(folder, toolkit)
    name, text = PACKAGING[toolkit]
    (folder / name).write_text(text, encoding="utf-8")
    return folder


MAKERS = {"bare": bare, "clone": clone, "release": release}


def preset(path: Path, toolkit: str, *words: str, toolkit_dir: Path | str = "") -> HostedPreset:
    path.parent.mkdir(parents=True, exist_ok=True)
    named = f"toolkit_dir = '{toolkit_dir}'\n" if toolkit_dir else ""
    path.write_text(f'[danceopd]\ntoolkit = "{toolkit}"\n{named}[danceopd.teachers.base]\n', encoding="utf-8")
    return split_preset(*parse_command(["--config", str(path), *words]))


def line(found: HostedPreset, environ: dict | None = None, cwd: Path | None = None) -> str:
    cwd = cwd or found.path.parent
    return require_trusted(find_toolkit(found.toolkit, found.danceopd.toolkit_dir, environ or {}, cwd), found, cwd)


def refused(found: HostedPreset, **more) -> str:
    with pytest.raises(UserError) as error:
        line(found, **more)
    return str(error.value)


# --- who names it


@TOOLKITS
@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("inside", [True, False], ids=["beside the preset", "elsewhere"])
def test_what_the_user_names_runs(tmp_path, toolkit, maker, inside):
    folder = maker(tmp_path / ("pack" if inside else "own") / "tool", toolkit)
    path, variable = tmp_path / "pack" / "p.toml", f"{toolkit.replace('-', '_').upper()}_DIR"
    told = line(preset(path, toolkit, "--toolkit_dir", str(folder)))
    assert told.startswith(f"{toolkit} runs from {folder} (") and told.endswith("named by --toolkit_dir")
    told = line(preset(path, toolkit), environ={variable: str(folder)})
    assert str(folder) in told and told.endswith(f"named by {variable}")


@TOOLKITS
def test_a_flag_counts_more_than_the_preset_that_names_another(tmp_path, toolkit):
    folder, other = bare(tmp_path / "own", toolkit), bare(tmp_path / "pack" / "tool", toolkit)
    found = preset(tmp_path / "pack" / "p.toml", toolkit, "--toolkit_dir", str(folder), toolkit_dir=other)
    assert str(folder) in line(found) and str(other) not in line(found)


@TOOLKITS
@pytest.mark.parametrize(("kind", "runs"), [("bare", False), ("clone", True), ("release", True)])
def test_a_folder_elsewhere_that_the_preset_names(tmp_path, toolkit, kind, runs):
    folder = MAKERS[kind](tmp_path / "own" / "tool", toolkit)
    found = preset(tmp_path / "presets" / "p.toml", toolkit, toolkit_dir=folder)
    if runs:
        assert line(found).endswith(f"named by toolkit_dir in {found.path}")
    else:
        message = refused(found)
        assert message.startswith(f"{found.path}: toolkit_dir: ")
        assert f"it is not a git clone or a release of {toolkit}" in message


@TOOLKITS
@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("place", ["pack/tool", "pack/deep/tool", "."])
def test_a_folder_that_may_have_come_with_the_preset(tmp_path, toolkit, maker, place):
    """Also a clone: it can be packed with its .git."""
    folder = maker(tmp_path / place, toolkit)
    found = preset(tmp_path / "pack" / "p.toml", toolkit, toolkit_dir=folder)
    message = refused(found, cwd=tmp_path / "pack")
    for part in (str(folder), "would run the code in it", f'--toolkit_dir "{folder}"', "--allow_local_code"):
        assert part in message
    allowed = preset(found.path, toolkit, "--allow_local_code", toolkit_dir=folder)
    assert str(folder) in line(allowed)


@TOOLKITS
def test_a_relative_folder_beside_the_preset_is_refused(tmp_path, toolkit):
    bare(tmp_path / "pack" / "tool", toolkit)
    assert "would run the code in it" in refused(preset(tmp_path / "pack" / "p.toml", toolkit, toolkit_dir="tool"))


@TOOLKITS
@pytest.mark.parametrize(
    ("kind", "inside", "runs"),
    [
        ("clone", True, True),
        ("clone", False, True),
        ("release", False, True),
        ("release", True, False),
        ("bare", False, False),
        ("bare", True, False),
    ],
)
def test_the_current_directory(tmp_path, toolkit, kind, inside, runs):
    folder = MAKERS[kind](tmp_path / "tool", toolkit)
    path = (folder if inside else tmp_path / "presets") / "p.toml"
    if runs:
        assert line(preset(path, toolkit), cwd=folder).endswith("the current directory")
    else:
        assert refused(preset(path, toolkit), cwd=folder).startswith("the current directory: running ")
        assert line(preset(path, toolkit, "--allow_local_code"), cwd=folder)


# --- what it is


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com/kohya-ss/sd-scripts.git", "kohya-ss/sd-scripts"),
        ("https://github.com/someone/SD-Scripts/", "someone/SD-Scripts"),
        ("git@github.com:someone/sd-scripts.git", "someone/sd-scripts"),
        ("https://me:secret@host/me/sd-scripts", "me/sd-scripts"),
        ("C:\\mirrors\\sd-scripts", "mirrors/sd-scripts"),
        ("https://github.com/someone/other", ""),
        ("https://github.com/sd-scripts/evil", ""),
        ("", ""),
    ],
)
def test_a_clone_goes_by_the_name_of_its_repository(tmp_path, url, name):
    found = kind_of(describe("sd-scripts", clone(tmp_path / "tool", "sd-scripts", url)))
    assert found == (f"git clone of {name}" if name else "")


@TOOLKITS
def test_a_tested_commit_is_a_clone_wherever_it_comes_from(tmp_path, toolkit):
    folder = clone(tmp_path / "tool", toolkit, "/mirrors/repo", hosted_toolkits()[toolkit].checkout.tested[0].commit)
    assert kind_of(describe(toolkit, folder)) == "git clone"


def test_a_submodule_has_its_remote_where_git_keeps_it(tmp_path):
    folder = bare(tmp_path / "gui" / "sd-scripts", "sd-scripts")
    clone(tmp_path / "elsewhere", "sd-scripts")
    (tmp_path / "gui" / ".git" / "modules").mkdir(parents=True)
    (tmp_path / "elsewhere" / ".git").rename(tmp_path / "gui" / ".git" / "modules" / "sd-scripts")
    (folder / ".git").write_text("gitdir: ../.git/modules/sd-scripts\n", encoding="utf-8")
    assert kind_of(describe("sd-scripts", folder)) == "git clone of kohya-ss/sd-scripts"


@TOOLKITS
def test_a_release_is_the_toolkits_packaging_without_git(tmp_path, toolkit):
    assert kind_of(describe(toolkit, release(tmp_path / "tool", toolkit))) == "release"
    (tmp_path / "tool" / ".git").mkdir()
    assert kind_of(describe(toolkit, tmp_path / "tool")) == "", "a clone of nothing"


def test_the_line_can_be_shown_on_any_terminal_and_has_no_password(tmp_path):
    folder = clone(tmp_path / "tool", "musubi-tuner", "https://me:secret@host/\x1b[2J/musubi-tuner")
    (folder / "pyproject.toml").write_text('version = "1\x1b[2J"', encoding="utf-8")
    told = line(preset(tmp_path / "presets" / "p.toml", "musubi-tuner", toolkit_dir=folder))
    assert told.isprintable() and "secret" not in told


@pytest.mark.skipif(os.name == "nt", reason="Windows has no /dev/zero")
def test_gits_files_may_be_anything(tmp_path):
    folder = bare(tmp_path / "tool", "sd-scripts")
    (folder / ".git").symlink_to("/dev/zero")
    assert (read_remotes(folder), kind_of(describe("sd-scripts", folder))) == ([], "")
    (folder / ".git").unlink()
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").symlink_to("/dev/zero")
    (folder / ".git" / "config").write_bytes(b"\xff\x00url = \n[remote]\nurl = \xff/sd-scripts\n")
    assert kind_of(describe("sd-scripts", folder)) == ""
