"""The native trainer's part of the campaign (see kills.py)."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from danceopd_ext.cli import run
from danceopd_ext.toolkits.native import build, loop, previews, train  # noqa: F401 - loaded once, before the forks
from danceopd_ext.toolkits.run import main
from scripts.campaigns.configurations import STEPS, Configuration, World
from scripts.campaigns.moments import Ended, Moment, hear_signals, run_forked
from scripts.campaigns.remains import differences, half_written, newest_state, unfinished
from scripts.campaigns.tally import Tally

ROOT = Path(__file__).parents[2]
DRIVER = "tests/toolkits/native/driver.py"
REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: the driver's moments of several processes
KILLS = ("step", "second", "weights", "state", "rename")


def campaign(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Tally]:
    """Every configuration, with kills and requests, and the launchers."""
    world = World(folder / "world")
    for place, configuration in enumerate(world.configurations()):
        if options.only in configuration.name and place >= options.first:
            kind = Launched if configuration.processes > 1 else Forked
            yield kind(world, folder / f"run{place}", configuration, rng).all(options, place)
            shutil.rmtree(folder / f"run{place}")


class Forked:
    """The runs of one configuration, each in a fork of this process."""

    def __init__(self, world: World, folder: Path, configuration: Configuration, rng: random.Random):
        self.folder, self.configuration, self.rng = folder, configuration, rng
        self.tally = Tally(configuration.name)
        self.presets = {name: world.preset(folder / name, configuration) for name in ("whole", "killed", "asked")}
        self.counts: dict[str, int] = {}

    def all(self, options: argparse.Namespace, place: int) -> Tally:
        whole = self.run("whole")
        if whole.code:
            self.tally.problems.append(f"the uninterrupted run: code {whole.code}, {whole.err[-600:]}")
            return self.tally
        self.counts = whole.counts
        self.killed(options.kills)
        for number in range(options.requests):
            self.asked(REQUESTS[(place + number) % len(REQUESTS)])
        return self.tally

    def output(self, name: str) -> Path:
        return self.folder / name / "output"

    def run(self, name: str, *flags: object, moment: Moment | None = None) -> Ended:
        words = ["--config", str(self.presets[name]), *map(str, flags)]
        return run_forked(lambda: run(main, words), self.folder / name, moment)

    def moment(self, number: int, done: int) -> Moment:
        """Anywhere in what is left of the run: loading, encoding, steps, saves, previews."""
        kind = self.rng.choice(("file", "module"))
        left = int(self.counts[kind] * (1 - 0.8 * done / STEPS))
        return Moment(kind, self.rng.randint(1, max(1, left)), number)

    def killed(self, times: int) -> None:
        """Kill, resume from the newest state, kill again, and so on to the end."""
        flags: list[object] = []
        kills = 0
        for _ in range(times):
            moment, ended = self.kill(flags)
            kills += ended.code != 0
            if ended.code == 0:
                self.tally.counts["done before"] += 1
                break
            flags = self.way_on("killed")
        else:
            moment, ended = "to the end", self.run("killed", *flags)
        self.tally.counts["killed"] += kills
        if kills:
            self.compare("killed", f"{moment}, {flags}", ended, "resumed equal", kills)

    def kill(self, flags: list[object]) -> tuple[object, Ended]:
        """A run that is killed, unless it is done before the moment."""
        moment = self.moment(signal.SIGKILL, _done(flags))
        ended = self.run("killed", *flags, moment=moment)
        self.look("killed", moment)
        if ended.code not in (0, -signal.SIGKILL):
            self.tally.problems.append(f"{moment}: code {ended.code}, {ended.last_line}, {ended.err[-600:]}")
        return moment, ended

    def look(self, name: str, moment: object) -> None:
        problems = half_written(self.output(name)) if self.output(name).exists() else []
        self.tally.problems += [f"{moment}: {problem} is half-written" for problem in problems]

    def not_stopped(self, moment: object, ended: Ended) -> None:
        if ended.code == 0:
            self.tally.counts["done before"] += 1
        else:
            self.tally.problems.append(f"{moment}: code {ended.code}, {ended.last_line}, {ended.err[-600:]}")

    def way_on(self, name: str) -> list[object]:
        """The flags that continue: the newest state, or from the start over what has none."""
        state = newest_state(self.output(name))
        return ["--resume", state] if state else ["--overwrite"]

    def compare(self, name: str, what: str, ended: Ended, column: str, times: int = 1) -> None:
        """Count a run that went on to its end as the uninterrupted one did, or tell the difference."""
        if ended.code:
            self.tally.problems.append(f"{name}, {what}: code {ended.code}, {ended.err[-600:]}")
        elif found := differences(self.output("whole"), self.output(name)):
            self.tally.problems.append(f"{name}, {what}: {', '.join(found)} differ from the uninterrupted run")
        else:
            self.tally.counts[column] += times

    def asked(self, number: int) -> None:
        """Ask to stop, and go on from what is said to be saved."""
        shutil.rmtree(self.output("asked"), ignore_errors=True)
        moment = self.moment(number, 0)
        self.after_request(moment, self.run("asked", moment=moment))

    def after_request(self, moment: object, ended: Ended) -> None:
        self.tally.counts["asked to stop"] += 1
        if ended.code == 0:
            self.not_stopped(moment, ended)
            return
        output = self.output("asked")
        problems = [*half_written(output), *unfinished(output)] if output.exists() else []
        if "Traceback" in ended.err.partition("exit code 130")[0]:
            problems.append(ended.err[-600:])
        if not ended.last_line.startswith("stopped "):
            problems.append(f"the last line is {ended.last_line!r}")
        if ended.code not in self.codes():
            problems.append(f"exit code {ended.code}")
        if problems:
            self.tally.problems += [f"{moment}: {problem}" for problem in problems]
            return
        self.tally.counts["ended with 130"] += 1
        flags = self.way_on("asked")
        self.compare("asked", f"{moment}, {flags}", self.run("asked", *flags), "resumed equal after it")

    def codes(self) -> tuple[int, ...]:
        return (130,)


class Launched(Forked):
    """The runs of one configuration under `accelerate launch`, which makes 1 of every code."""

    def all(self, options: argparse.Namespace, place: int) -> Tally:
        super().all(options, place)
        for word in ("interrupt", "launcher"):
            for processes in (1, 2):
                self.launched(word, processes)
        return self.tally

    def run(self, name: str, *flags: object, moment: Moment | None = None, word: str = "never:0", processes: int = 2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        several = ["--num_processes", str(processes), "--main_process_port", port] if processes > 1 else []
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--quiet", *several]
        command = [*launch, DRIVER, word, str(self.presets[name]), *map(str, flags)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, preexec_fn=hear_signals
        )
        return Ended(done.returncode, done.stdout, done.stderr, {})

    def kill(self, flags: list[object]) -> tuple[object, Ended]:
        kind = self.rng.choice(KILLS)
        word = f"{kind}:{self.rng.randint(1, 2) if kind in ('weights', 'state') else self.rng.randint(1, 3)}"
        ended = self.run("killed", *flags, word=word)
        self.look("killed", word)
        return word, ended

    def asked(self, number: int) -> None:
        """Only by the driver's moments."""

    def launched(self, word: str, processes: int) -> None:
        shutil.rmtree(self.output("asked"), ignore_errors=True)
        moment = f"{word}:{self.rng.randint(1, STEPS - 1)}"
        ended = self.run("asked", word=moment, processes=processes)
        if processes == 2:
            self.after_request(f"{moment}, {processes} processes", ended)
            return
        # one process has another share of the data than two: that it ends and saves is what counts
        self.tally.counts["asked to stop"] += 1
        if ended.last_line.startswith("stopped after step") and newest_state(self.output("asked")):
            self.tally.counts["ended with 130"] += 1
        else:
            self.tally.problems.append(f"{moment}, 1 process: code {ended.code}, {ended.last_line}, {ended.err[-600:]}")

    def codes(self) -> tuple[int, ...]:
        return (1, -signal.SIGKILL)


def _done(flags: list[object]) -> int:
    """The steps that are behind a run with these flags."""
    return int(str(flags[1])[-len("00000000-state") :][:8]) if flags[:1] == ["--resume"] else 0
