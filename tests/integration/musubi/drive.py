"""A run of a preset in a process of its own: `drive.py CASE PRESET [flags]`, as train_danceopd.py would start it.

CASE: a module of this folder with `shrink`. LAYERS in the environment: its argument. SPY: a function of spies.py that
is called before, and may watch. Exit codes are the command's.
"""

from __future__ import annotations

import importlib
import os
import sys

import torch

from tests.integration.musubi.checkout import prepare


def main(case: str, preset: str, *flags: str) -> int:
    from danceopd_ext.cli import run
    from danceopd_ext.toolkits.run import main

    torch.set_num_threads(1)
    prepare()
    importlib.import_module(f"tests.integration.musubi.{case}").shrink(int(os.environ.get("LAYERS", "2")))
    if os.environ.get("SPY"):
        getattr(importlib.import_module("tests.integration.musubi.spies"), os.environ["SPY"])()
    return run(main, ["--config", preset, *flags])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
