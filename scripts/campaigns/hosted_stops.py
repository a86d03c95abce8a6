"""The hosted toolkits' part of the campaign (see kills.py): requests to stop inside the user's checkout.

The toolkits write their files in place, so that only requests are held against "nothing half-written".
"""

from __future__ import annotations

import argparse
import importlib
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from scripts.campaigns.moments import Ended, Moment, run_forked
from scripts.campaigns.remains import TIMING, log_of, unfinished
from scripts.campaigns.tally import Tally

REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STEPS = 6
#: with one process that loads data, and with two
WORKERS = (0, 2)


def campaign(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Tally]:
    """Ask runs with and without workers to stop, at random moments, and go on from what they say."""
    make_preset = {"sd-scripts": sd_scripts, "musubi-tuner": musubi}[options.part](folder / "world")
    for workers in WORKERS:
        name = f"{options.part}, {workers} workers"
        if options.only in name:
            stops = Stops(Tally(name), folder / f"w{workers}", lambda path, w=workers: make_preset(path, w), rng)
            yield stops.all(options.requests)


def sd_scripts(folder: Path) -> Callable[[Path, int], Path]:
    """Writes presets for the tiny SD3.5 of the tests."""
    from tests.integration.sd_scripts import tiny_sd3
    from tests.integration.sd_scripts.checkout import prepare
    from tests.integration.sd_scripts.world import PROMPTS, World

    prepare()
    tiny_sd3.shrink()
    folder.mkdir(parents=True)
    world = World(folder, tiny_sd3.write(folder / "model", 2))
    tiny_sd3.lora(folder / "ink.safetensors", seed=1)
    for name, text in PROMPTS.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    saving = {"save_every_n_steps": 2, "save_state": True}

    def make_preset(path: Path, workers: int) -> Path:
        training = {"max_train_steps": STEPS, "gradient_accumulation_steps": 2, "max_data_loader_n_workers": workers}
        return world.preset(path, "base", "ink", training=training, saving=saving)

    return make_preset


def musubi(folder: Path) -> Callable[[Path, int], Path]:
    """Writes presets for the tiny Z-Image of the tests."""
    from tests.integration.musubi.checkout import prepare

    prepare()
    preset = importlib.import_module("tests.integration.musubi.test_z_image_processes").preset
    world = importlib.import_module("tests.integration.musubi.worlds").make_world(folder)
    values: dict[str, Any] = {
        "max_train_steps": STEPS, "gradient_accumulation_steps": 2, "save_every_n_steps": 2, "save_state": True,
    }  # fmt: skip

    return lambda path, workers: preset(world, path / "preset.toml", max_data_loader_n_workers=workers, **values)


class Stops:
    """Runs of one preset, each in a fork of this process."""

    def __init__(self, tally: Tally, folder: Path, make_preset: Callable[[Path], Path], rng: random.Random):
        self.tally, self.folder, self.rng = tally, folder, rng
        self.presets = {name: make_preset(folder / name) for name in ("whole", "asked")}

    def all(self, requests: int) -> Tally:
        whole = self.run("whole")
        if whole.code:
            self.tally.problems.append(f"the uninterrupted run: code {whole.code}, {whole.err[-600:]}")
            return self.tally
        for number in range(requests):
            kind = self.rng.choice(("file", "module"))
            count = self.rng.randint(1, max(1, whole.counts[kind]))
            self.asked(Moment(kind, count, REQUESTS[number % len(REQUESTS)]))
        return self.tally

    def output(self, name: str) -> Path:
        return self.folder / name / "out"

    def run(self, name: str, *flags: str, moment: Moment | None = None) -> Ended:
        from danceopd_ext.cli import run
        from danceopd_ext.toolkits.run import main

        words = ["--config", str(self.presets[name]), *flags]
        return run_forked(lambda: run(main, words), self.folder / name, moment)

    def asked(self, moment: Moment) -> None:
        output = self.output("asked")
        shutil.rmtree(output, ignore_errors=True)
        ended = self.run("asked", moment=moment)
        self.tally.counts["asked to stop"] += 1
        if ended.code == 0:
            self.tally.counts["done before"] += 1
            return
        problems = self.problems(ended)
        if problems:
            self.tally.problems += [f"{moment}: {problem}" for problem in problems]
            return
        self.tally.counts["ended with 130"] += 1
        self.go_on(moment)

    def problems(self, ended: Ended) -> list[str]:
        output = self.output("asked")
        found = unfinished(output) if output.exists() else []
        for file in output.rglob("*.safetensors") if output.exists() else ():
            load_file(file)
        if "Traceback" in ended.err:
            found.append(ended.err[-1500:])
        if not ended.last_line.startswith("stopped "):
            found.append(f"the last line is {ended.last_line!r}")
        return [*found, *([f"exit code {ended.code}"] if ended.code != 130 else [])]

    def go_on(self, moment: Moment) -> None:
        state = max(self.output("asked").glob("fused-step*-state"), default=None)
        ended = self.run("asked", *(["--resume", str(state)] if state else []))
        if ended.code:
            self.tally.problems.append(f"{moment}, {state}: code {ended.code}, {ended.err[-1500:]}")
        elif self.differs():
            self.tally.problems.append(f"{moment}, {state}: not equal to the uninterrupted run")
        else:
            self.tally.counts["resumed equal after it"] += 1

    def differs(self) -> bool:
        one, other = (load_file(self.output(name) / "fused.safetensors") for name in ("whole", "asked"))
        logs = [
            [{k: v for k, v in entry.items() if k not in TIMING} for entry in log_of(self.output(name))]
            for name in ("whole", "asked")
        ]
        return one.keys() != other.keys() or any(not torch.equal(one[k], other[k]) for k in one) or logs[0] != logs[1]
