"""Kills runs at random moments, and asks others to stop; counts what becomes of them.

    python scripts/campaigns/kills.py                    # the native trainer: every configuration, two kills in each
    python scripts/campaigns/kills.py --only previews    # configurations with this word in their name

and in a toolkit's own environment, with a checkout as tests/README.md says (PYTHONPATH=. and SD_SCRIPTS_DIR):

    python scripts/campaigns/kills.py --part sd-scripts
    python scripts/campaigns/kills.py --part musubi-tuner

A killed run (SIGKILL) must leave nothing half-written under a final name, and resumed it must end as the run that
nobody interrupted, bit for bit: LoRA, optimizer state and log. A run that is asked to stop (Ctrl-C, SIGTERM, SIGHUP, a
killed launcher) must end with code 130, without a traceback, a temporary file or a lock, and resume likewise. The
counts go to scripts/campaigns/results/kills.md, each configuration in the place of its former ones; the exit code is 1
if anything else happened. Linux and macOS.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from scripts.campaigns.tally import add_to

RESULTS = Path(__file__).parent / "results" / "kills.md"


def main() -> int:
    """Run the chosen configurations and return 1 if a run was broken."""
    options = parse()
    import torch

    torch.set_num_threads(1)
    broken = 0
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        if options.part == "native":
            from scripts.campaigns.native_kills import campaign
        else:
            from scripts.campaigns.hosted_stops import campaign
        for tally in campaign(Path(folder), options, random.Random(options.seed)):
            broken += bool(tally.problems)
            print(tally.row(), *tally.problems, sep="\n", flush=True)
            add_to(options.results, options.part, tally)
    return int(broken > 0)


def parse() -> argparse.Namespace:
    """Read the command line; argparse ends the program if it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("native", "sd-scripts", "musubi-tuner"), default="native")
    parser.add_argument("--only", default="", help="configurations with this word in their name")
    parser.add_argument("--first", type=int, default=0, help="leave out so many configurations at the beginning")
    parser.add_argument("--kills", type=int, default=2, help="kills of each configuration, one after the other")
    parser.add_argument("--requests", type=int, default=1, help="requests to stop, of each configuration")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
