"""Rows of a table that were made apart, into the table: `python scripts/reproduce/join.py TABLE RESULTS MORE`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from danceopd_ext.cli import run
from danceopd_ext.reproduce.join import main

if __name__ == "__main__":
    sys.exit(run(main))
