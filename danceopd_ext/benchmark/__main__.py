"""Starts the benchmark: `python -m danceopd_ext.benchmark`."""

import sys

from danceopd_ext.benchmark.command import main
from danceopd_ext.cli import run

if __name__ == "__main__":
    sys.exit(run(main))
