"""Defines the errors that the user sees, and keeps their messages readable whatever the input was."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

#: characters of one quoted value or of one word, of a line, and of the whole text; names of one list
LONGEST_VALUE, LONGEST_LINE, LONGEST_TEXT, MOST_NAMES = 200, 2000, 6000, 20

#: an opening quote and its closing one; an apostrophe inside a word is neither
_OPENING = re.compile("\"|(?<!\\w)'(?=\\S)")
_CLOSING = {'"': re.compile('"'), "'": re.compile("'(?!\\w)")}
_WORD = re.compile(rf"\S{{{LONGEST_VALUE + 1},}}")
_LIST = re.compile(rf"(?:[^,\n]{{1,{LONGEST_VALUE}}}, ){{{MOST_NAMES},}}")


def readable(text: str) -> str:
    r"""Return a message that a person can read on any terminal, however long or odd the values in it are.

    Control characters, terminal sequences and marks that change the direction of text are shown as escapes (`\x1b`).
    A quoted value or a word of more than LONGEST_VALUE characters keeps both ends. A line that is still too long keeps
    the first MOST_NAMES names of each list, and then both ends. A readable text is returned unchanged.
    """
    text = _short_values(printable(text, keep="\n"))
    text = _WORD.sub(lambda found: _ends(found[0], LONGEST_VALUE), text)
    lines = [line if len(line) <= LONGEST_LINE else _ends(_LIST.sub(_few_names, line), LONGEST_LINE)
             for line in text.split("\n")]  # fmt: skip
    return _ends("\n".join(lines), LONGEST_TEXT)


def _short_values(text: str) -> str:
    """Return the text with its quoted values shortened; a line break inside one is shown as an escape."""
    parts: list[str] = []
    place, unclosed = 0, set()
    while opening := _OPENING.search(text, place):
        quote, start = opening[0], opening.end()
        parts.append(text[place:start])
        place = start
        closing = None if quote in unclosed else _CLOSING[quote].search(text, start)
        if closing is None:  # no later quote closes either, so the text is not searched again for each opening
            unclosed.add(quote)
        else:
            value = text[start : closing.start()]
            parts += [_ends(value.replace("\n", "\\n"), LONGEST_VALUE), quote]
            place = closing.end()
    return "".join([*parts, text[place:]])


def _ends(text: str, most: int) -> str:
    """Return the text, or at most `most` characters: its beginning, its length in characters, and its end."""
    if len(text) <= most:
        return text
    cut = f" ... ({len(text):,} characters) ... "
    tail = (most - len(cut)) // 3
    return text[: most - len(cut) - tail] + cut + text[len(text) - tail :]


def _few_names(found: re.Match) -> str:
    names = found[0].split(", ")[:-1]
    more = len(names) - MOST_NAMES
    return found[0] if more < 1 else f"{', '.join(names[:MOST_NAMES])}, ... ({more:,} more), "


class UserError(Exception):
    """The user's input is wrong: one message that names the file or key and the remedy, made `readable`.

    The command line prints the message alone (no traceback) and exits with code 2.
    """

    def __init__(self, message: object = ""):
        super().__init__(readable(str(message)))


class MissingFile(UserError):
    """A file that the user's input names does not exist; `path` as the input writes it."""

    def __init__(self, message: str, path: Path):
        super().__init__(message)
        self.path = path


def nearest(word: str, known: Iterable[str], alike: float = 0.5) -> str:
    """Return ` Did you mean "x"?` for the known word closest to `word`, or an empty string.

    `alike`: the least similarity, from 0 to 1.
    """
    if len(word) > LONGEST_VALUE:  # not a misspelling of a known word, and slow to compare
        return ""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=alike)
    return f' Did you mean "{close[0]}"?' if close else ""


def shorten(text: str, most: int = 80) -> str:
    """Return the text, or its beginning and three dots, for a message."""
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class if it has none, in 200 characters at most."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def few(names: Iterable[str], most: int = 3) -> str:
    """Return the first names of a list and how many more there are, for a message."""
    names = list(names)
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more:,} more"


def printable(text: str, keep: str = "") -> str:
    r"""Return the text with unprintable characters as escapes (such as `\x1b`), except the characters of `keep`.

    Text from files is shown on terminals, where an escape sequence could clear the screen or rewrite a line.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter in keep or not _controls(letter) else _written_out(letter) for letter in text)


def _controls(letter: str) -> bool:
    """Return whether it is a control, direction or line character, or half of one; joiners of letters are not."""
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in "\u200c\u200d"


def _written_out(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def counted(number: int, thing: str) -> str:
    """Return `1 file` or `2 files`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


class TrainingError(Exception):
    """The run had to stop: one `readable` message that says why, what was saved and what to try.

    Exit code 1, no traceback.
    """

    def __init__(self, message: object = ""):
        super().__init__(readable(str(message)))


class Stopped(Exception):
    """The user or the system asked the run to stop, and it did: one `readable` line that begins with "stopped".

    The line says the step, what was saved and how to resume. Exit code 130, no traceback.
    """

    code = 130

    def __init__(self, message: object = ""):
        super().__init__(readable(str(message)))
