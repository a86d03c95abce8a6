"""What the quickstart does before anything is installed, also on Windows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import environment

SCRIPTS = Path(environment.__file__).parent


@pytest.fixture
def windows(monkeypatch):
    """`windows(root)`: as on Windows, with the project in that folder."""

    def windows(root):
        monkeypatch.setattr(environment, "os", SimpleNamespace(name="nt"))
        monkeypatch.setattr(environment, "ROOT", root)
        return monkeypatch

    return windows


@pytest.fixture
def quickstart(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import quickstart

    return quickstart


@pytest.mark.parametrize(("letters", "long_paths", "told"), [(60, False, False), (61, False, True), (61, True, False)])
def test_a_folder_too_deep_for_windows_is_told_before_anything_is_installed(windows, letters, long_paths, told):
    root = "C:\\" + "x" * (letters - 3)
    windows(root).setattr(environment, "long_paths", lambda: long_paths)
    if not told:
        return environment.check_length()
    with pytest.raises(SystemExit) as stopped:
        environment.check_length()
    assert root in str(stopped.value) and "at most 60" in str(stopped.value)


def test_other_systems_take_long_paths(monkeypatch):
    monkeypatch.setattr(environment, "os", SimpleNamespace(name="posix"))
    monkeypatch.setattr(environment, "ROOT", "/" + "x" * 200)
    environment.check_length()


def test_the_longest_name_is_that_of_torch():
    """Below site-packages, whose own name Windows counts too; it keeps one letter of 260."""
    torch = next(Path(path) for path in sys.path if (Path(path) / "torch").is_dir())
    (info,) = torch.glob("torch-[0-9]*.dist-info")
    longest = max((path for path in info.rglob("*") if path.is_file()), key=lambda path: len(str(path)))
    below = len(longest.relative_to(torch).as_posix().replace("+cpu", "+cu130"))
    assert environment.LONGEST + len("\\.venv\\Lib\\site-packages\\") + below < 260


@pytest.mark.parametrize(("system", "cores", "count"), [("nt", 8, 1), ("posix", 8, 2), ("posix", 1, 1)])
def test_processes_of_the_quickstart(quickstart, monkeypatch, system, cores, count):
    monkeypatch.setattr(quickstart, "os", SimpleNamespace(name=system, cpu_count=lambda: cores))
    assert quickstart.processes_here() == count
    threads = quickstart.launch_options(count)[4]
    assert quickstart.launch_options(count)[3] == "--num_cpu_threads_per_process"
    assert int(threads) * count == min(2, cores)


def test_the_quickstart_can_be_run_again(quickstart, monkeypatch):
    """Its own earlier result is what it may replace; what the user adds comes after and wins."""
    started = []
    monkeypatch.setattr(quickstart, "ensure", lambda _: ("python", 0.0))
    monkeypatch.setattr(quickstart, "run", started.append)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--max_train_steps", "5"])
    quickstart.main()
    training = next(words for words in started if "train_danceopd.py" in words)
    assert training[-3:] == ["--overwrite", "--max_train_steps", "5"]


def test_the_printed_command_can_be_typed(quickstart, monkeypatch):
    words = ["--output_dir", "my output"]
    monkeypatch.setattr(quickstart, "os", SimpleNamespace(name="nt"))
    assert quickstart.in_words(words) == '--output_dir "my output"'
    monkeypatch.setattr(quickstart, "os", SimpleNamespace(name="posix"))
    assert quickstart.in_words(words) == "--output_dir 'my output'"


def test_the_environment_is_like_the_one_that_python_makes(monkeypatch, tmp_path):
    """A copied interpreter does not start where Python's library lies beside it; Windows has no symlinks."""
    made = {}
    monkeypatch.setattr(environment, "FOLDER", tmp_path / ".venv")
    monkeypatch.setattr(environment.venv, "create", lambda folder, **keys: made.update(keys, folder=folder))
    monkeypatch.setattr(environment, "run", lambda command: (tmp_path / ".venv").mkdir(exist_ok=True))
    environment.ensure("native")
    assert made == {"folder": tmp_path / ".venv", "with_pip": True, "symlinks": os.name != "nt"}


def test_help_needs_nothing_installed():
    done = subprocess.run(
        [sys.executable, "-S", "quickstart.py", "--help"], cwd=SCRIPTS, capture_output=True, text=True, check=True
    )
    assert "outputs/quickstart/" in done.stdout
