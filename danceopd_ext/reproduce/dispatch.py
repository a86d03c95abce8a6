"""Chooses the command of `scripts/reproduce.py`: a table's name, or join, repeats or seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from danceopd_ext.reproduce import command, join_tables, repeats, seconds

#: first word -> its command; command.OTHERS describes them
COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "join": join_tables.main,
    "repeats": repeats.main,
    "seconds": seconds.main,
}


def main(argv: Sequence[str]) -> None:
    """Run the command that the first word names; otherwise make a table. Raises UserError."""
    if argv and argv[0] in COMMANDS:
        COMMANDS[argv[0]](argv[1:])
    else:
        command.main(argv)
