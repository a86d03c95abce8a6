"""Creates the demo's models from scratch: `python scripts/demo_pretrain.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from danceopd_ext.cli import run
from danceopd_ext.demo.pretrain.command import main

if __name__ == "__main__":
    sys.exit(run(main))
