"""The commands of `scripts/reproduce.py`: a table's name makes that table; others are join, repeats and seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from danceopd_ext.reproduce import command, join_tables, repeats, seconds

#: first word -> what does the rest; command.OTHERS describes them
COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "join": join_tables.main,
    "repeats": repeats.main,
    "seconds": seconds.main,
}


def main(argv: Sequence[str]) -> None:
    """Do what the first word names; without a command's name the words make a table. Raises UserError."""
    if argv and argv[0] in COMMANDS:
        COMMANDS[argv[0]](argv[1:])
    else:
        command.main(argv)
