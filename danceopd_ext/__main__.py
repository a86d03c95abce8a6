"""`python -m danceopd_ext COMMAND`: see cli.py."""

import sys

from danceopd_ext.cli import main, run

sys.exit(run(main))
