"""What is told to the user when their input is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """The user's input is wrong: one message that names the file or key and the remedy.

    The command line prints the message alone (no traceback) and exits with code 2.
    """


class MissingFile(UserError):
    """A file that the user's input names is not there; `path` as it is named."""

    def __init__(self, message: str, path: Path):
        super().__init__(message)
        self.path = path


def nearest(word: str, known: Iterable[str], alike: float = 0.5) -> str:
    """Return ` Did you mean "x"?` for the known word closest to `word`, or an empty string.

    `alike`: how close it must be at least, from 0 to 1.
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=alike)
    return f' Did you mean "{close[0]}"?' if close else ""


def few_letters(text: str, most: int = 80) -> str:
    """The text, or its beginning and three dots: for a message."""
    return text if len(text) <= most else f"{text[: most - 4]} ..."


class TrainingError(Exception):
    """The run had to stop: one message that says why, what was saved and what to try. Exit code 1, no traceback."""
