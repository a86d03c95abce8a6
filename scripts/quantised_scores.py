"""Scores what a quantised base costs in the demo world: `python scripts/quantised_scores.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from danceopd_ext.cli import run
from danceopd_ext.demo.quantised_scores import main

if __name__ == "__main__":
    sys.exit(run(main))
