"""The user's checkout of a toolkit is found, and its version is read without git."""

from __future__ import annotations

from pathlib import Path

import pytest

from danceopd_ext.config.toolkits import hosted_toolkits
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.checkout import Checkout, find_toolkit, version_note
from danceopd_ext.toolkits.hosted.checkout import tested_versions as versions
from danceopd_ext.toolkits.hosted.git_files import read_commit

SOURCES = {name: toolkit.checkout for name, toolkit in hosted_toolkits().items()}
COMMIT, OTHER = "0123456789" * 4, "f" * 40


@pytest.fixture
def checkout(tmp_path):
    """Make a folder that looks like a toolkit's checkout."""

    def checkout(toolkit: str = "sd-scripts", name: str | None = None) -> Path:
        folder = tmp_path / (name or toolkit)
        for mark in SOURCES[toolkit].marks:
            (folder / mark).parent.mkdir(parents=True, exist_ok=True)
            (folder / mark).touch()
        return folder

    return checkout


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_order_of_the_three_places(checkout):
    named, variable, here = (checkout(name=name) for name in ("named", "variable", "here"))
    environ = {"SD_SCRIPTS_DIR": str(variable), "MUSUBI_TUNER_DIR": "nowhere"}
    assert find_toolkit("sd-scripts", str(named), environ, here).folder == named
    assert find_toolkit("sd-scripts", None, environ, here).folder == variable
    assert find_toolkit("sd-scripts", None, {"SD_SCRIPTS_DIR": ""}, here).folder == here
    assert find_toolkit("sd-scripts", "../named", {}, here).folder == named, "from the current directory"


def test_the_environment_and_the_current_directory_are_those_of_the_process(checkout, monkeypatch):
    first, second = checkout("musubi-tuner", "first"), checkout("musubi-tuner", "second")
    monkeypatch.chdir(first)
    monkeypatch.delenv("MUSUBI_TUNER_DIR", raising=False)
    assert find_toolkit("musubi-tuner", None).folder == first
    monkeypatch.setenv("MUSUBI_TUNER_DIR", str(second))
    assert find_toolkit("musubi-tuner", None).folder == second


def problem(*arguments) -> str:
    with pytest.raises(UserError) as error:
        find_toolkit(*arguments)
    return str(error.value)


def test_nothing_found_says_the_three_ways(tmp_path):
    message = problem("musubi-tuner", None, {}, tmp_path)
    for part in ("kohya-ss/musubi-tuner", "--toolkit_dir", "MUSUBI_TUNER_DIR", "start from inside it."):
        assert part in message
    assert message.endswith("start from inside it.")


def test_nothing_found_but_it_is_near(checkout):
    folder = checkout()
    assert problem("sd-scripts", None, {}, folder.parent).endswith(f"Did you mean {folder}?")


def test_a_named_folder_that_is_not_it(checkout, tmp_path):
    here = checkout()
    (tmp_path / "empty").mkdir()
    message = problem("sd-scripts", str(tmp_path / "empty"), {}, here)
    assert f'toolkit_dir = "{tmp_path / "empty"}" is not a checkout of kohya-ss/sd-scripts' in message
    assert "The right folder contains train_network.py and library/train_util.py" in message
    assert 'toolkit_dir = "gone" does not exist' in problem("sd-scripts", "gone", {}, here)
    assert 'SD_SCRIPTS_DIR = "gone" does not exist' in problem("sd-scripts", None, {"SD_SCRIPTS_DIR": "gone"}, here)
    assert '~nobody-of-this-name/x" does not exist' in problem("sd-scripts", "~nobody-of-this-name/x", {}, here)


def test_one_missing_file_is_enough_to_refuse(checkout):
    folder = checkout()
    (folder / "train_network.py").unlink()
    assert "is not a checkout" in problem("sd-scripts", str(folder), {}, folder)


def test_the_other_toolkit(checkout):
    folder = checkout("musubi-tuner")
    assert 'is a checkout of musubi-tuner: to use it, write toolkit = "musubi-tuner"' in problem(
        "sd-scripts", str(folder), {}, folder
    )
    assert 'is a checkout of musubi-tuner: to use it, write toolkit = "musubi-tuner"' in problem(
        "sd-scripts", None, {}, folder
    )


def test_the_parent_of_the_right_folder_and_a_folder_inside(checkout):
    folder = checkout("musubi-tuner")
    for wrong in (folder.parent, folder / "src", folder / "src" / "musubi_tuner"):
        assert problem("musubi-tuner", str(wrong), {}, folder).endswith(f"Did you mean {folder}?")


# --- versions


def test_commit_of_a_branch(tmp_path):
    write(tmp_path / ".git/HEAD", "ref: refs/heads/main\n")
    assert read_commit(tmp_path) is None, "a branch without a commit"
    write(
        tmp_path / ".git/packed-refs", f"# pack-refs with: peeled\n{OTHER} refs/heads/main2\n{COMMIT} refs/heads/main\n"
    )
    assert read_commit(tmp_path) == COMMIT
    write(tmp_path / ".git/refs/heads/main", OTHER + "\n")
    assert read_commit(tmp_path) == OTHER, "a loose ref is newer than the packed one"


def test_commit_of_a_detached_head(tmp_path):
    write(tmp_path / ".git/HEAD", COMMIT + "\n")
    assert read_commit(tmp_path) == COMMIT


def test_commit_of_a_submodule(tmp_path):
    write(tmp_path / "sub/.git", "gitdir: ../.git/modules/sub\n")
    write(tmp_path / ".git/modules/sub/HEAD", COMMIT + "\n")
    assert read_commit(tmp_path / "sub") == COMMIT


@pytest.mark.parametrize("place", ["refs/heads/side", "packed-refs"])
def test_commit_of_a_worktree(tmp_path, place):
    """Its HEAD is its own, its branches are the clone's."""
    clone = tmp_path / "clone/.git"
    write(tmp_path / "tree/.git", f"gitdir: {clone}/worktrees/tree\n")
    write(clone / "HEAD", OTHER + "\n")
    write(clone / "worktrees/tree/HEAD", "ref: refs/heads/side\n")
    write(clone / "worktrees/tree/commondir", "../..\n")
    write(clone / place, f"{COMMIT} refs/heads/side\n" if place == "packed-refs" else COMMIT)
    assert read_commit(tmp_path / "tree") == COMMIT


@pytest.mark.parametrize("head", [None, "", "ref: refs/heads/.invalid", "nonsense"])
def test_no_commit(tmp_path, head):
    if head is not None:
        write(tmp_path / ".git/HEAD", head)
    assert read_commit(tmp_path) is None


def test_version_of_sd_scripts(checkout):
    folder = checkout()
    found = find_toolkit("sd-scripts", str(folder))
    assert found == Checkout(folder, "unknown", False, "sd-scripts")
    note = version_note(found)
    assert note.startswith(f"note: sd-scripts at {folder} is of an unknown version, which is not tested. If it fails, ")
    assert "check out a tested version: 2025-08, commit 18e62515; " in note
    write(folder / ".git/HEAD", COMMIT)
    found = find_toolkit("sd-scripts", str(folder))
    assert (found.version, found.tested) == ("01234567", False)
    remedy = f"If it fails, check out a tested version: {versions('sd-scripts')}."
    assert f"version 01234567, which is not tested. {remedy}" in version_note(found)
    assert "\n" not in version_note(found)
    for tested in SOURCES["sd-scripts"].tested:
        write(folder / ".git/HEAD", tested.commit)
        found = find_toolkit("sd-scripts", str(folder))
        assert (found.version, found.tested) == (tested.commit[:8], True)
        assert version_note(found) is None


@pytest.mark.parametrize(
    ("number", "commit", "version", "tested"),
    [
        (None, None, "unknown", False),
        ("0.3.4", None, "0.3.4", True),
        ("0.3.5", None, "0.3.5", False),
        ("0.3.4", COMMIT, "0.3.4 (01234567)", False),
        ("0.3.4", SOURCES["musubi-tuner"].tested[0].commit, "0.3.4 (30c658c4)", True),
        ("0.3.4", SOURCES["musubi-tuner"].tested[1].commit, "0.3.4 (fe4818da)", True),
        ("0.3.5", SOURCES["musubi-tuner"].tested[1].commit, "0.3.5 (fe4818da)", False),
        (None, COMMIT, "unknown (01234567)", False),
    ],
)
def test_version_of_musubi_tuner(checkout, number, commit, version, tested):
    folder = checkout("musubi-tuner")
    if number:
        write(
            folder / "pyproject.toml", f'[project]\nname = "musubi-tuner"\nversion = "{number}"\n[x]\nversion = "9"\n'
        )
    if commit:
        write(folder / ".git/HEAD", commit)
    found = find_toolkit("musubi-tuner", str(folder))
    assert (found.version, found.tested) == (version, tested)
    assert (version_note(found) is None) == tested


def test_tested_commits_are_whole():
    every = [tested for source in SOURCES.values() for tested in source.tested]
    assert {len(tested.commit) for tested in every} == {40}
    assert all(tested.commit.startswith(tested.name.split()[-1]) for tested in every)
    assert [len(source.tested) for source in SOURCES.values()] == [3, 2]
    assert len({source.variable for source in SOURCES.values()}) == len(SOURCES)
