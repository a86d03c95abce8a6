"""Runs a preset in this process: the real command line on the real checkout, with tiny models.

`python -m tests.integration.sd_scripts.run_preset tiny_sd3[,PROBE] ARGUMENTS...`: `shrink` of the module tiny_sd3 is
called first, then each probe, a function of probes.py, which may watch the run and write what it saw.
"""

from __future__ import annotations

import importlib
import sys

from tests.integration.sd_scripts.checkout import prepare

HERE = "tests.integration.sd_scripts"


def main() -> None:
    """Exit as train_danceopd.py does."""
    tiny, *probes = sys.argv[1].split(",")
    prepare()
    importlib.import_module(f"{HERE}.{tiny}").shrink()
    for probe in probes:
        getattr(importlib.import_module(f"{HERE}.probes"), probe)()
    from danceopd_ext.cli import run

    sys.exit(run(command, sys.argv[2:]))


def command(words: list[str]) -> None:
    """Train with `PRESET --key value ...`."""
    from danceopd_ext.toolkits.run import main as train

    train(["--config", *words])


if __name__ == "__main__":
    main()
