"""Kills runs at random moments, and asks others to stop; counts what becomes of them.

    python scripts/campaigns/kills.py                    # the native trainer: every configuration, two kills in each
    python scripts/campaigns/kills.py --only previews    # configurations with this word in their name

and in a toolkit's own environment, with a checkout as tests/README.md says (PYTHONPATH=. and SD_SCRIPTS_DIR):

    python scripts/campaigns/kills.py --part sd-scripts
    python scripts/campaigns/kills.py --part musubi-tuner

A killed run (SIGKILL) must leave nothing half-written under a final name, and resumed it must end as the run that
nobody interrupted, bit for bit: LoRA, optimizer state and log. A run that is asked to stop (Ctrl-C, SIGTERM, SIGHUP, a
killed launcher) must end with code 130, without a traceback, a temporary file or a lock, and resume likewise. The
counts go to scripts/campaigns/results/kills.md; the exit code is 1 if anything else happened. Linux and macOS.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from scripts.campaigns.tally import COLUMNS, Tally

RESULTS = Path(__file__).parent / "results" / "kills.md"
PARTS = ("native", "sd-scripts", "musubi-tuner")


def main() -> int:
    options = parse()
    import torch

    torch.set_num_threads(1)
    start = time.time()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        if options.part == "native":
            from scripts.campaigns.native_kills import campaign
        else:
            from scripts.campaigns.hosted_stops import campaign
        tallies = campaign(Path(folder), options, random.Random(options.seed))
    report(options, tallies, time.time() - start)
    return int(any(tally.problems for tally in tallies))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="native")
    parser.add_argument("--only", default="", help="configurations with this word in their name")
    parser.add_argument("--kills", type=int, default=2, help="kills of each configuration, one after the other")
    parser.add_argument("--requests", type=int, default=1, help="requests to stop, of each configuration")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def report(options: argparse.Namespace, tallies: list[Tally], seconds: float) -> None:
    """Print the counts, and put them in the place of this part's former ones in the results file."""
    total = Tally("**all**", sum((tally.counts for tally in tallies), Counter()))
    problems = [f"- {tally.name}: {problem}" for tally in tallies for problem in tally.problems]
    lines = [
        f"## {options.part}",
        f"{time.strftime('%Y-%m-%d')}, seed {options.seed}, {len(tallies)} configurations, {seconds:.0f} s, "
        f"{sys.platform}, Python {sys.version.split()[0]}. Problems: {len(problems)}.",
        "",
        "| configuration | " + " | ".join(COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
        *(tally.row() for tally in [*tallies, total]),
        *(["", *problems] if problems else []),
    ]
    print("\n".join(lines))
    options.results.parent.mkdir(parents=True, exist_ok=True)
    old = options.results.read_text(encoding="utf-8") if options.results.is_file() else ""
    sections = {part.partition("\n")[0]: part.strip() for part in old.split("\n## ")[1:]}
    sections[options.part] = "\n".join(lines).removeprefix("## ").strip()
    text = "# What became of killed and stopped runs\nWritten by `scripts/campaigns/kills.py`, which says what the columns count.\n"  # noqa: E501
    text += "".join(f"\n## {sections[part]}\n" for part in PARTS if part in sections)
    options.results.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
