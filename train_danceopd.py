"""`python train_danceopd.py --config preset.toml`: trains one LoRA from the teachers that the preset names."""

import sys

from danceopd_ext.cli import run
from danceopd_ext.toolkits.run import main

if __name__ == "__main__":
    sys.exit(run(main))
