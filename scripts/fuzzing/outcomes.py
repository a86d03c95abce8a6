"""What a case came to."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import danceopd_ext
from danceopd_ext.config.danceopd import Teacher
from danceopd_ext.config.fields import key_types
from danceopd_ext.config.load import TABLES, flat_keys

#: outcomes that are right
RIGHT = ("result", "refused")
#: the order of the table
OUTCOMES = (*RIGHT, "exception", "slow", "memory", "escapes", "code", "died")
PACKAGE = Path(danceopd_ext.__file__).resolve().parent
#: characters and lines of a message that a person reads to its end
LONGEST_MESSAGE, MOST_LINES = 3000, 25
#: what no output may have: control characters but line ends and tabs, and marks that turn the direction of text
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_KEYS = {*flat_keys(), *TABLES, *key_types(Teacher), "--config", "danceopd"}


@dataclass
class Outcome:
    """One case. `changes`: what is odd in its input. `where`: the exception's type and our innermost frame.

    `seconds`: of the processor; `megabytes`: the most memory above what there was before. `nameless`: a refusal that
    names neither a file nor a key; `long`: one that goes on for pages.
    """

    target: str
    number: int
    outcome: str = "result"
    changes: str = ""
    stage: str = ""
    where: str = ""
    message: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0
    nameless: bool = False
    long: bool = False
    trace: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def frame_of(error: BaseException) -> str:
    """`TypeError at lora/read.py:to_lora`: the innermost frame in the package, or the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).resolve().is_relative_to(PACKAGE)]
    if ours:
        place = f"{Path(ours[-1].filename).resolve().relative_to(PACKAGE).as_posix()}:{ours[-1].name}"
    else:
        place = f"{frames[-1].filename}:{frames[-1].name}" if frames else "nowhere"
    return f"{type(error).__name__} at {place}"


def traced(error: BaseException) -> list[str]:
    """The last frames, one a line."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}: {frame.line}" for frame in frames]


def is_nameless(message: str, names: Iterable[str]) -> bool:
    """Whether the message names neither one of the case's files nor a key of a preset."""
    if any(name and name in message for name in names):
        return False
    words = set(re.findall(r"[\w-]+", message))
    return not (words & _KEYS)


def is_long(message: str) -> bool:
    """Return whether a message is too long to be read on a terminal."""
    return len(message) > LONGEST_MESSAGE or message.count("\n") > MOST_LINES
