"""Measures the memory that reading a LoRA takes: `python scripts/lora_memory.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from danceopd_ext.benchmark.lora_memory import main  # no more of the package: this process must stay small

if __name__ == "__main__":
    main(sys.argv[1:])
