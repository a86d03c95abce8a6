"""Reads what to draw from the benchmarks' own files, and where their scorers look for it.

GenEval (github.com/djghosh13/geneval): `NAME/00000/metadata.jsonl` and `NAME/00000/samples/0000.png`, ...
GEdit-Bench (github.com/stepfun-ai/Step1X-Edit): `NAME/fullset/TASK/LANGUAGE/KEY.png`, with the source image as
`KEY_SRCIMG.png`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from danceopd_ext.data.pictures import PictureFile, decoded
from danceopd_ext.data.plan import Prompt
from danceopd_ext.data.table_rows import Row, picture_of, read_rows, text_of
from danceopd_ext.errors import UserError

LANGUAGES = ("en", "cn")


@dataclass(frozen=True)
class Job:
    """One prompt. `pictures`: where its samples go, below the model's folder. `kind`: what scores are averaged by.

    `where`: the row of the benchmark's file, for messages. `source`: the source picture's encoded bytes, for an edit;
    the scorer wants it as PNG in `source_file`. `files`: further files that the scorer wants.
    """

    prompt: str
    pictures: tuple[Path, ...]
    kind: str
    where: str
    source: bytes | None = None
    source_file: Path | None = None
    files: Mapping[Path, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return a short name in characters that any font has."""
        return self.pictures[0].with_suffix("").as_posix().removeprefix("fullset/")

    @property
    def encoded_prompt(self) -> Prompt:
        """Return what is encoded: the prompt, and the name of the source image that a text encoder may see."""
        return Prompt(self.prompt, () if self.source_file is None else (self.source_file,))

    @cached_property
    def picture(self) -> PictureFile | None:
        """Return the source image's digest and size."""
        if self.source is None:
            return None
        with Image.open(io.BytesIO(self.source)) as image:
            return PictureFile(hashlib.sha256(self.source).hexdigest()[:32], image.size)

    @property
    def content_digest(self) -> str:
        """Return a digest of what the pictures should show: the prompt and the source image."""
        what = [self.prompt, self.picture.digest if self.picture else None]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]

    @property
    def scorer_files(self) -> tuple[Path, ...]:
        """Return the files that the scorer needs in addition to the pictures."""
        return (*self.files, *([self.source_file] if self.source_file else []))

    def content(self, file: Path) -> bytes:
        """Return the content of one of the `scorer_files`."""
        return as_png(self.source) if file == self.source_file else self.files[file]

    def source_image(self) -> Image.Image | None:
        return None if self.source is None else decoded(self.source, f"{self.where}: the source image cannot be read")


def geneval_jobs(path: Path, samples: int, limit: int | None = None) -> list[Job]:
    """Return the (first `limit`) prompts of GenEval's evaluation_metadata.jsonl, `samples` pictures each.

    Raises UserError.
    """
    jobs = []
    for index, (where, row) in enumerate(_rows(path)):
        if len(jobs) == limit:
            break
        prompt, folder = text_of(row, "prompt", where), Path(f"{index:05d}")
        pictures = tuple(folder / "samples" / f"{n:04d}.png" for n in range(samples))
        metadata = {folder / "metadata.jsonl": json.dumps(row, ensure_ascii=False).encode("utf-8")}
        jobs.append(Job(prompt, pictures, str(row.get("tag", "all")), where, files=metadata))
    return _not_empty(jobs, path)


def gedit_jobs(path: Path, language: str | None = "en", limit: int | None = None) -> list[Job]:
    """Return the instructions of GEdit-Bench: a .parquet file or a folder of them, or a .jsonl with its pictures.

    Each row has task_type, key, instruction, instruction_language and input_image (in .jsonl: a file name): the picture
    that is edited and that the scorer compares with; input_image_raw, which the dataset also has, is ignored.
    `language` None takes all, `limit` only the first of them. Raises UserError.
    """
    jobs = []
    for where, row in _rows(path):
        if len(jobs) == limit:  # before the next row's picture is read: reading a whole benchmark takes long
            break
        words = {
            name: text_of(row, name, where) for name in ("task_type", "key", "instruction", "instruction_language")
        }
        if language and words["instruction_language"] != language:
            continue
        folder = Path("fullset") / _plain(words["task_type"], where) / _plain(words["instruction_language"], where)
        key, source = _plain(words["key"], where), picture_of(row, "input_image", path.parent, where)
        pictures, file = (folder / f"{key}.png",), folder / f"{key}_SRCIMG.png"
        jobs.append(Job(words["instruction"], pictures, words["task_type"], where, source, file))
    return _not_empty(jobs, path)


def _rows(path: Path) -> Iterable[tuple[str, Row]]:
    """Yield the file's rows, with a progress bar if that takes longer than two seconds."""
    return tqdm(read_rows(path), desc=f"reading {path.name}", unit="row", delay=2)


def _plain(word: str, where: str) -> str:
    """Return a word that becomes a file or folder name. Raises UserError for path parts and control characters."""
    if word in (".", "..") or not word.isprintable() or any(mark in word for mark in '/\\:*?"<>|'):
        raise UserError(f"{where}: {word!r} cannot be used as a file name.")
    return word


def as_png(picture: bytes) -> bytes:
    """Return the same picture as PNG."""
    out = io.BytesIO()
    decoded(picture, "a source image cannot be read").save(out, "PNG")
    return out.getvalue()


def _not_empty(jobs: list[Job], path: Path) -> list[Job]:
    if not jobs:
        raise UserError(f"{path} (--prompts): it contains no prompts to draw (for GEdit-Bench: none in that language).")
    taken: dict[Path, Job] = {}
    for job in jobs:
        for picture in job.pictures:
            if picture in taken:
                raise UserError(f"{path}: {picture.as_posix()} occurs twice.")
            taken[picture] = job
    return jobs
