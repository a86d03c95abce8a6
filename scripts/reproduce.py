"""The paper's tables in the demo world: `python scripts/reproduce.py TABLE [--seeds 3] [--budget quick]`.

Tables: composition, local-global, style, guidance, ablations. Trains what is missing, resumes what was cut off, draws,
scores, and writes Markdown, CSV, plots and picture grids into outputs/reproduce/results.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from danceopd_ext.cli import run
from danceopd_ext.reproduce.command import main

if __name__ == "__main__":
    sys.exit(run(main))
