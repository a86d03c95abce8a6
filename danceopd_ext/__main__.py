"""`python -m danceopd_ext COMMAND`: see cli.py."""

import sys
from pathlib import Path

if sys.path and Path(sys.path[0] or ".").resolve() == Path.cwd():
    # `python -m` searches the working directory first, which may contain somebody's torch.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from danceopd_ext.cli import main, run

sys.exit(run(main))
