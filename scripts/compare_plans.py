"""Compares the memory that plans give with counts of whole models: `python scripts/compare_plans.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from danceopd_ext.benchmark.plans import main
from danceopd_ext.cli import run

if __name__ == "__main__":
    sys.exit(run(main))
