"""Creates the project's own virtual environment, with the standard library only: it runs before any installation."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv"
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"

#: characters: torch for CUDA has files 173 characters below site-packages, which is 26 below this folder
LONGEST = 60


def python_of(folder: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environment() -> dict[str, str]:
    """Return the environment for every process that is started.

    UTF-8 everywhere, whatever the console's code page; no advice of transformers about packages that are not needed;
    and modules that are compiled once for all processes.
    """
    return {"TRANSFORMERS_VERBOSITY": "error", **os.environ, "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": ""}


def ensure(extras: str) -> tuple[Path, float]:
    """Return the interpreter of `.venv` with this project and `extras` installed, and the seconds that this took.

    Nothing is installed again if the pins are unchanged.
    """
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        sys.exit(f"Python 3.10 to 3.13 is needed; this is {sys.version.split()[0]}. Start it with another python.")
    start = time.perf_counter()
    python, stamp = python_of(FOLDER), FOLDER / f"installed-{extras.replace(',', '-')}.txt"
    wanted = hashlib.sha256(CONSTRAINTS.read_bytes() + (ROOT / "setup.py").read_bytes()).hexdigest()
    if not (python.is_file() and stamp.is_file() and stamp.read_text() == wanted):
        print(f"Installing into {FOLDER} (once; a few minutes, depending on your connection) ...", flush=True)
        check_length()
        if not python.is_file():
            # as `python -m venv`: a copied interpreter does not find its library if Python came with uv or Homebrew
            venv.create(FOLDER, with_pip=True, symlinks=os.name != "nt")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # torch first, by itself: its pin then decides which build the other packages use
        run([*pip, "--constraint", str(CONSTRAINTS), "torch"])
        run([*pip, "--constraint", str(CONSTRAINTS), "--editable", f"{ROOT}[{extras}]"])
        stamp.write_text(wanted)
    return python, time.perf_counter() - start


def check_length() -> None:
    """Exit with a message if torch's longest path would exceed the 259 characters that Windows allows."""
    if os.name != "nt" or len(str(ROOT)) <= LONGEST or long_paths():
        return
    sys.exit(
        f"{ROOT}: this folder's path has {len(str(ROOT))} characters. Windows allows 259 in a path, so torch can be "
        f"installed only if this path has at most {LONGEST}: move the folder, for example to C:\\danceopd_ext."
    )


def long_paths() -> bool:
    """Return whether this Windows is set to allow longer paths."""
    import winreg

    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
        try:
            return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
        except FileNotFoundError:
            return False


def run(command: list[str], **variables: str) -> None:
    """Run a command in the project's folder; if it fails, exit with its exit code and without a traceback."""
    done = subprocess.run(command, cwd=ROOT, env={**environment(), **variables}, check=False)
    if done.returncode:
        sys.exit(done.returncode)
