"""What is fuzzed: how the input of a case is made, and what reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzzing.worlds import World

Stage = Callable[[str], object]
"""Is told what is done now, for the report."""


@dataclass
class Case:
    """The input of a case lies in its folder. `changes`: what is odd in it, in words. `names`: of its files."""

    run: Callable[[Stage], object]
    changes: list[str]
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """`share`: of all cases, in relation to those of the others. `batch`: cases that one process does.

    `before`: what is made once for all of them, before processes are forked.
    """

    make: Callable[[Random, World, Path], Case]
    share: int
    batch: int = 100
    before: Callable[[World], object] = lambda world: None


TARGETS: dict[str, Target] = {}


def target(
    name: str, share: int, batch: int = 100, before: Callable[[World], object] = lambda world: None
) -> Callable[[Callable], Callable]:
    """Make a function that makes cases known under a name."""

    def known(make: Callable[[Random, World, Path], Case]) -> Callable:
        TARGETS[name] = Target(make, share, batch, before)
        return make

    return known
