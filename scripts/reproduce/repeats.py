"""How much of a model's wrong edits is chance: `python scripts/reproduce/repeats.py [--lora NAME=FILE ...]`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from danceopd_ext.cli import run
from danceopd_ext.reproduce.repeats import main

if __name__ == "__main__":
    sys.exit(run(main))
