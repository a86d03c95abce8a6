"""Makes the paper's tables in the demo world: `python scripts/reproduce.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from danceopd_ext.cli import run
from danceopd_ext.reproduce.dispatch import main

if __name__ == "__main__":
    sys.exit(run(main))
