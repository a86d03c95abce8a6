"""A module with what the trainer and accelerate use of W&B; it keeps what it was given in a file."""

from __future__ import annotations

from pathlib import Path

SOURCE = """
import json, os
from types import SimpleNamespace

RECORD = {record!r}
__version__ = "0.31.0"


def note(**facts):
    with open(RECORD, "a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\\n")


class Error(Exception):
    pass


def setup():
    mode = os.environ.get("WANDB_MODE", "online")
    server = os.environ.get("WANDB_BASE_URL", "https://wandb.invalid")
    return SimpleNamespace(settings=SimpleNamespace(mode=mode, base_url=server, api_key=None))


class Config:
    def update(self, values, **more):
        note(config=values)


class Run:
    def __init__(self, id):
        self.id = id

    def log(self, values, step=None, **more):
        note(step=step, keys=sorted(values))

    def finish(self):
        note(finished=True)


config = Config()


def init(**arguments):
    if os.environ.get("WANDB_STAND_IN_FAILS"):
        raise Error(os.environ["WANDB_STAND_IN_FAILS"])
    note(init=arguments)
    return Run(arguments.get("id") or "run-1")
"""


def write_stand_in(folder: Path) -> Path:
    """Write `wandb.py`, as if pip had installed it, to the folder; return the file of what it is given."""
    record = folder / "record.jsonl"
    (folder / "wandb.py").write_text(SOURCE.replace("{record!r}", repr(str(record))), encoding="utf-8")
    facts = folder / "wandb-0.31.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: wandb\nVersion: 0.31.0\n", encoding="utf-8")
    return record
