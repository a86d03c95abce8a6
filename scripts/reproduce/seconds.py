"""What a step of each row takes on a quiet machine: `python scripts/reproduce/seconds.py TABLE`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from danceopd_ext.cli import run
from danceopd_ext.reproduce.seconds import main

if __name__ == "__main__":
    sys.exit(run(main))
