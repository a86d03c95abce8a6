"""Reads rows as edits, each with its route, and writes their pictures and instructions."""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from danceopd_ext.data.table_rows import Row, encoded_of, rgb_of, text_of
from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_file

ROUTES = ("local", "global")
#: words of a task that make it global; * is any ending, so that lighting counts, and highlight and envelope do not
GLOBAL_WORDS = ("style*", "background*", "env", "environment*", "weather*", "light*", "tone*")
#: in a picture that was written here: the digest of the picture that it was made from
MADE_FROM = "made from"


class Edit(NamedTuple):
    """An instruction, and the place of its pictures."""

    instruction: str
    source: Path
    target: Path


Pictures = Mapping[Path, tuple[Image.Image, str]]
"""The pictures to write: path -> content, each with the digest of its origin."""


def read_edits(
    rows: Iterable[tuple[str, Row, Path]],
    chosen: Mapping[str, str],
    arguments: argparse.Namespace,
    listed: Mapping[str, Sequence[Edit]],
    tasks: set[str],
) -> Iterator[tuple[str, Edit, Pictures]]:
    """Yield every edit with its route and the pictures to be written, up to --limit of each route in `listed`.

    Adds the rows' tasks to `tasks`. Raises UserError for a broken row; with --skip_broken it is reported and left out.
    """
    limit = arguments.limit
    with tqdm(total=limit and limit * len(ROUTES), desc="writing", unit="edit") as bar:
        for where, row, folder in rows:
            try:
                task = text_of(row, "task", where)
                tasks.add(task)
                route = chosen.get(task, route_of_task(task))
                if limit is not None and len(listed[route]) >= limit:
                    continue
                edit, pictures = read_edit(row, Path(arguments.out) / route, len(listed[route]), folder, where)
            except UserError as problem:
                if not arguments.skip_broken:
                    raise UserError(f"{problem} To leave out such rows, use --skip_broken.") from None
                bar.write(f"left out: {problem}")
                continue
            yield route, edit, pictures
            bar.update()
            if limit is not None and all(len(made) >= limit for made in listed.values()):
                return  # before the next row: it may be in a file that would have to be fetched


def route_of_task(task: str) -> str:
    """Return `global` for tasks that change the whole picture (paper, training data), else `local`."""
    words = re.split(r"[\W\d_]+", task.lower())
    return "global" if any(fnmatchcase(word, known) for word in words for known in GLOBAL_WORDS) else "local"


def instruction_of(row: Row, where: str) -> str:
    """Return the last of the row's wordings: OmniEdit puts the short one last."""
    texts = row.get("edited_prompt_list")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not isinstance(texts[-1], str) or not texts[-1].strip():
        raise UserError(f'{where}: "edited_prompt_list" has no instruction.')
    return " ".join(texts[-1].split())


def read_edit(row: Row, folder: Path, number: int, base: Path, where: str) -> tuple[Edit, Pictures]:
    """Read a row, and those of its pictures that do not exist yet from the same origin. Raises UserError."""
    instruction = instruction_of(row, where)
    source, target = (folder / kind / f"{number:06d}.png" for kind in ("source", "target"))
    missing = {}
    for path, name in ((source, "src_img"), (target, "edited_img")):
        data = encoded_of(row, name, base, where)
        digest = hashlib.sha256(data).hexdigest()
        if made_from(path) != digest:
            missing[path] = rgb_of(data, name, where), digest
    return Edit(instruction, source, target), missing


def made_from(path: Path) -> str | None:
    """Return the digest that `write_edit` stored in a picture; None if there is none."""
    try:
        with Image.open(path) as picture:
            return picture.info.get(MADE_FROM)
    except (OSError, ValueError, SyntaxError):
        return None


def write_edit(edit: Edit, pictures: Pictures) -> None:
    """Write pictures and instruction."""
    for path, (picture, digest) in pictures.items():
        note = PngInfo()
        note.add_text(MADE_FROM, digest)
        with whole_file(path) as part:
            picture.save(part, format="PNG", pnginfo=note)
    with whole_file(edit.target.with_suffix(".txt")) as part:
        part.write_text(edit.instruction + "\n", encoding="utf-8")
