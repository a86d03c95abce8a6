"""Records how the pictures in a model's folder were drawn, so that different pictures are never mixed.

The folder also contains `settings.json` (how all of them are drawn) and `asked.json` (what each should show).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from danceopd_ext.engine.digests import components_digest, transformer_digest
from danceopd_ext.errors import MissingFile, UserError
from danceopd_ext.evaluation.jobs import Job
from danceopd_ext.files import whole_file
from danceopd_ext.foreign.json import read_object
from danceopd_ext.models.model_files import ModelFiles

SETTINGS, ASKED = "settings.json", "asked.json"
REMEDY = "Use another --out, or delete the folder to draw its pictures again."
#: settings that are digests, in words
CONTENTS = {
    "model_content": "another model with this name",
    "components_content": "other text encoders, or another VAE or scheduler",
    "lora_content": "other LoRA files with these names",
}


def model_contents(files: ModelFiles) -> dict[str, str]:
    """Return digests of the model's files: another model with the same name draws other pictures."""
    others = components_digest(files, ["vae", "scheduler"])
    return {"model_content": transformer_digest(files), "components_content": others}


def check_folders(settings: Mapping[Path, Mapping[str, object]], jobs: Sequence[Job]) -> None:
    """Raise UserError if a folder contains pictures that were drawn with other settings or for something else.

    `settings`: a model's folder -> how its pictures are to be drawn. More or fewer pictures are fine.
    """
    for folder, wanted in settings.items():
        if next(folder.rglob("*.png"), None) is None:
            continue  # nothing was drawn: the run ended before
        _check_settings(folder, wanted)
        asked = _read(folder / ASKED)
        for job in jobs:
            for file in job.pictures:
                if (folder / file).is_file() and asked.get(file.as_posix()) != job.content_digest:
                    raise UserError(
                        f"{folder}: {file.as_posix()} was drawn for a prompt or source image that differs from "
                        f"{job.where}. {REMEDY}"
                    )


def _check_settings(folder: Path, wanted: Mapping[str, object]) -> None:
    before = _read(folder / SETTINGS)
    for name, value in wanted.items():
        if before.get(name) == value:
            continue
        if name in CONTENTS:
            raise UserError(f"{folder} contains pictures drawn with {CONTENTS[name]}. {REMEDY}")
        raise UserError(f"{folder} contains pictures drawn with {name} = {before.get(name)}, not {value}. {REMEDY}")


def write_notes(settings: Mapping[Path, Mapping[str, object]], jobs: Sequence[Job]) -> None:
    """Write to each model's folder how its pictures are drawn, and what those of `jobs` should show."""
    asked = {file.as_posix(): job.content_digest for job in jobs for file in job.pictures}
    for folder, wanted in settings.items():
        _write(folder / SETTINGS, wanted)
        _write(folder / ASKED, {**_read(folder / ASKED), **asked})


def _read(path: Path) -> dict:
    """Return the file's object; empty if the file is missing. Raises UserError."""
    try:
        return read_object(path, "note on the pictures")
    except MissingFile:
        return {}
    except UserError as error:
        raise UserError(f"{error} {REMEDY}") from None


def _write(path: Path, content: Mapping[str, object]) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=2), encoding="utf-8")
