"""Reads the documents that a toolkit also reads, because its own readers end with a traceback."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from danceopd_ext.data.prompt_entries import read_sample_file
from danceopd_ext.foreign.json import read_object
from danceopd_ext.foreign.toml import read_toml


def read_document(path: Path, what: str) -> dict[str, Any]:
    """Read a .json file with an object, or a .toml file, as a table. Raises UserError; `what` names its kind."""
    return read_object(path, what) if path.suffix.lower() == ".json" else read_toml(path, what)


def check_sample_prompts(args: Namespace) -> None:
    """Raise UserError if the file of `sample_prompts` cannot be read or has another form."""
    if args.sample_prompts:
        read_sample_file(Path(args.sample_prompts))
