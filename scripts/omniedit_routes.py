"""Turns OmniEdit-style edit data into folders of edit routes: `python scripts/omniedit_routes.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from danceopd_ext.cli import run
from danceopd_ext.data.omniedit.command import main

if __name__ == "__main__":
    sys.exit(run(main))
