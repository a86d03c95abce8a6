"""Runs all CI checks on a fresh machine: `python scripts/test.py [pytest arguments]`.

Creates `.venv`, installs, checks the style, and runs the tests on all cores.
"""

from __future__ import annotations

import os
import sys

from environment import ensure, run


def main() -> None:
    """Install, check the style, and run the tests; exits with the first failure's code."""
    python, _ = ensure("native,optimizers,dev")
    run([str(python), "-m", "ruff", "check", "."])
    run([str(python), "-m", "ruff", "format", "--check", "."])
    # one thread each: the tests' models are so small that threads would only wait for each other
    workers = str(max(os.cpu_count() or 1, 1))
    arguments = sys.argv[1:] or ["tests"]
    # worksteal keeps a file's tests, and their shared fixtures, on one worker until another is idle
    run([str(python), "-m", "pytest", "-q", "-n", workers, "--dist", "worksteal", *arguments], OMP_NUM_THREADS="1")


if __name__ == "__main__":
    main()
