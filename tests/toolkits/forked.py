"""Runs the trainer in processes of its own without the ten seconds that each would import for (see nursery.py)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Done:
    """What a process left, as subprocess.run tells it."""

    returncode: int
    stdout: str
    stderr: str


class Forked:
    """Starts scripts of the project in the current folder. `folder`: for what they print.

    The first word is the script, below the project's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.nursery: subprocess.Popen | None = None

    def run(self, *words: object, **variables: str) -> Done:
        """Run one script to its end; `variables`: of its environment."""
        return self._run([list(map(str, words))], [variables])[0]

    def run_ranks(self, count: int, *words: object) -> list[Done]:
        """Run a script in `count` processes that train together, as a launcher would start them."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "ACCELERATE_USE_CPU": "1"}
        ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
        return self._run([list(map(str, words))] * count, ranks)

    def _run(self, commands: list[list[str]], variables: list[Mapping[str, str]]) -> list[Done]:
        places = []
        for _ in commands:
            self.count += 1
            places.append([str(self.folder / f"{self.count}.{kind}") for kind in ("out", "error")])
        requests = [
            {"words": [str(ROOT / script), *words], "variables": own, "folder": os.getcwd(), "out": out, "error": error}
            for (script, *words), own, (out, error) in zip(commands, variables, places, strict=True)
        ]
        codes = self._answer(requests) if hasattr(os, "fork") else self._start(requests)
        texts = [[Path(file).read_text(encoding="utf-8", errors="replace") for file in files] for files in places]
        return [Done(code, *text) for code, text in zip(codes, texts, strict=True)]

    def _answer(self, requests: list[dict]) -> list[int]:
        if self.nursery is None:
            command = [sys.executable, "-m", "tests.toolkits.nursery"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self.nursery = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, **pipes)
        self.nursery.stdin.write(json.dumps(requests) + "\n")
        self.nursery.stdin.flush()
        return json.loads(self.nursery.stdout.readline())

    def _start(self, requests: list[dict]) -> list[int]:
        """Do the same on Windows, which cannot fork."""
        children = []
        for request in requests:
            own = {**ENVIRONMENT, **request["variables"]}
            with open(request["out"], "w") as out, open(request["error"], "w") as error:
                command = [sys.executable, *request["words"]]
                how = {"env": own, "cwd": request["folder"], "stdout": out, "stderr": error}
                children.append(subprocess.Popen(command, **how))
        return [child.wait() for child in children]

    def end(self) -> None:
        if self.nursery:
            self.nursery.stdin.close()
            self.nursery.wait()
