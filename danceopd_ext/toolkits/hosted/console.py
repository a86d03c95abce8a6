"""Prints lines for the user between those of the toolkit."""

from __future__ import annotations

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.errors import printable
from danceopd_ext.toolkits.launched import is_first_process
from danceopd_ext.toolkits.metadata import describe_teacher


def tell(line: str) -> None:
    """Print a line on the first process only; control characters are escaped."""
    if is_first_process():
        print(printable(line, keep="\n"), flush=True)


def introduction(options: DanceOPDSection) -> list[str]:
    """Return lines that say what the run does."""
    teachers = [f"  {name}: {describe_teacher(teacher)}" for name, teacher in options.teachers.items()]
    asked = f"queried at {options.num_queries} of {options.rollout_steps} rollout steps ({options.query})"
    return [f"DanceOPD: one student from {len(teachers)} teachers, {asked}", *teachers]
