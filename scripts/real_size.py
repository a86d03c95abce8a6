"""Trains a few steps on a random model of a real model's size: `python scripts/real_size.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from danceopd_ext.benchmark.real_size import main
from danceopd_ext.cli import run

if __name__ == "__main__":
    sys.exit(run(main))
