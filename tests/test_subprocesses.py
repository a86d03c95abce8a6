"""Interpreters that the package starts."""

import subprocess
import sys

import danceopd_ext
from danceopd_ext.subprocesses import environment


def test_another_interpreter_finds_this_package_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "kept"))
    own = environment(OMP_NUM_THREADS="3")
    assert (own["OMP_NUM_THREADS"], own["PYTHONUTF8"]) == ("3", "1")
    program = "import danceopd_ext, sys; print(danceopd_ext.__file__); print(sys.path)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=own, capture_output=True, encoding="utf-8")
    found, path = done.stdout.splitlines()
    assert found == danceopd_ext.__file__
    assert repr(str(tmp_path / "kept")) in path
