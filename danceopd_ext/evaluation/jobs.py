"""What is to be drawn, from the benchmarks' own files, and where their scorers look for it.

GenEval (github.com/djghosh13/geneval): `NAME/00000/metadata.jsonl` and `NAME/00000/samples/0000.png`, ...
GEdit-Bench (github.com/stepfun-ai/Step1X-Edit): `NAME/fullset/TASK/LANGUAGE/KEY.png`, the source beside it as
`KEY_SRCIMG.png`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from danceopd_ext.data.tables import picture_of, read_rows, text_of
from danceopd_ext.errors import UserError

LANGUAGES = ("en", "cn")


@dataclass(frozen=True)
class Job:
    """One prompt. `pictures`: where its samples go, below the model's folder. `kind`: what scores are averaged by.

    `source`: the source picture's encoded bytes, for an edit. `files`: further files that the scorer wants.
    """

    prompt: str
    pictures: tuple[Path, ...]
    kind: str
    source: bytes | None = None
    files: Mapping[Path, bytes] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Under which its condition is cached: the prompt, and the source that a text encoder may see."""
        return self.prompt if self.source is None else f"{self.prompt}\n{hashlib.sha256(self.source).hexdigest()}"

    def source_image(self) -> Image.Image | None:
        return None if self.source is None else Image.open(io.BytesIO(self.source)).convert("RGB")


def geneval_jobs(path: Path, samples: int) -> list[Job]:
    """The prompts of GenEval's evaluation_metadata.jsonl, `samples` pictures each. Raises UserError."""
    jobs = []
    for index, (where, row) in enumerate(read_rows(path)):
        prompt, folder = text_of(row, "prompt", where), Path(f"{index:05d}")
        pictures = tuple(folder / "samples" / f"{n:04d}.png" for n in range(samples))
        metadata = {folder / "metadata.jsonl": json.dumps(row, ensure_ascii=False).encode("utf-8")}
        jobs.append(Job(prompt, pictures, str(row.get("tag", "all")), files=metadata))
    return _not_empty(jobs, path)


def gedit_jobs(path: Path, language: str | None = "en") -> list[Job]:
    """The instructions of GEdit-Bench: a .parquet file or a folder of them, or a .jsonl with pictures beside it.

    Each row has task_type, key, instruction, instruction_language and input_image (in .jsonl: a file name). `language`
    None takes all. Raises UserError.
    """
    jobs = []
    for where, row in read_rows(path):
        words = {
            name: text_of(row, name, where) for name in ("task_type", "key", "instruction", "instruction_language")
        }
        if language and words["instruction_language"] != language:
            continue
        folder = Path("fullset") / _plain(words["task_type"], where) / _plain(words["instruction_language"], where)
        key, source = _plain(words["key"], where), picture_of(row, "input_image", path.parent, where)
        files = {folder / f"{key}_SRCIMG.png": as_png(source)}
        jobs.append(Job(words["instruction"], (folder / f"{key}.png",), words["task_type"], source, files))
    return _not_empty(jobs, path)


def _plain(word: str, where: str) -> str:
    """A word that becomes a file or folder name; nothing may lead out of the folder."""
    if word in (".", "..") or any(mark in word for mark in '/\\:*?"<>|'):
        raise UserError(f"{where}: {word!r} cannot be a file name.")
    return word


def as_png(picture: bytes) -> bytes:
    """The same picture as PNG."""
    out = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").save(out, "PNG")
    return out.getvalue()


def _not_empty(jobs: list[Job], path: Path) -> list[Job]:
    if not jobs:
        raise UserError(f"{path} (--prompts): nothing to draw in it (for GEdit-Bench: in that language).")
    taken: dict[Path, Job] = {}
    for job in jobs:
        for picture in job.pictures:
            if picture in taken:
                raise UserError(f"{path}: {picture.as_posix()} is named twice.")
            taken[picture] = job
    return jobs
