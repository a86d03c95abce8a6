"""Feeds odd input to every check before training: `python scripts/fuzz.py [--cases 20000] [--targets lora state ...]`.

Presets, LoRA files, model folders, datasets, prompts, sample prompts, caches and saved states are changed at random, by
their structure and byte by byte, and read as training, `inspect` and `convert` read them. A case must end with a result
or a refusal with a message. Anything else is a failure: another exception, more than 5 s or 1 GiB, control characters
in the output, code that ran. A case follows from seed, target and number alone:

    python scripts/fuzz.py --only lora:1234 --keep inputs    # again, with the whole trace; keeps the input

Reads the danceopd_ext that Python finds (PYTHONPATH). Exit code 1 if there is a failure. Needs Linux or macOS.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from fuzzing import data, hosted, loras, models, presets, prompts, states  # noqa: F401 - they register their targets
from fuzzing.cases import run_case
from fuzzing.outcomes import OUTCOMES, RIGHT, Outcome
from fuzzing.targets import TARGETS
from fuzzing.workers import run_batch
from fuzzing.worlds import World

import danceopd_ext
from danceopd_ext.errors import printable

RESULTS = Path(__file__).resolve().parent / "fuzzing" / "results.md"


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; argparse ends the program if it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cases", type=int, default=2000, help="number of cases, divided among the targets (default: 2000)")
    add("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS), metavar="TARGET", help=", ".join(TARGETS))
    add("--seed", type=int, default=0)
    add("--first", type=int, default=0, help="the number of the first case of each target")
    add("--only", metavar="TARGET:NUMBER", help="run only this case, in this process, with the whole trace")
    add("--keep", type=Path, metavar="DIR", help="folder in which the inputs are kept")
    add("--json", type=Path, metavar="FILE", help="append every outcome except results to this file, one per line")
    add("--write", action="store_true", help=f"also write the table to {RESULTS.name} next to the script")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the cases and print the table and each kind of failure. Returns the exit code."""
    asked = arguments(words)
    torch.set_num_threads(1)
    scratch = asked.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    shutil.rmtree(scratch / "world", ignore_errors=True)
    scratch = scratch.resolve()
    try:
        world = World(scratch / "world").make()
        if asked.only:
            return run_one(asked, world, scratch)
        began = time.monotonic()
        found = run_all(asked, world, scratch)
        report(asked, found, time.monotonic() - began)
    finally:
        if not asked.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    return int(any(one.outcome not in RIGHT for one in found))


def run_one(asked: argparse.Namespace, world: World, scratch: Path) -> int:
    """Run one case in this process, without limits: exceptions pass through."""
    target, _, number = asked.only.rpartition(":")
    folder = scratch / f"{target}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    TARGETS[target].before(world)
    found = run_case(target, int(number), asked.seed, world, folder, raises=True)
    print(
        f"{target}:{number}: {printable(found.changes)}\n{found.outcome} {found.where} {found.stage}\n{found.message}"
    )
    return int(found.outcome not in RIGHT)


def run_all(asked: argparse.Namespace, world: World, scratch: Path) -> list[Outcome]:
    """Run all cases, target by target; after Ctrl-C return those that are done."""
    found: list[Outcome] = []

    def done(one: Outcome) -> None:
        found.append(one)
        if asked.json and one.outcome != "result":
            with open(asked.json, "a", encoding="utf-8") as file:
                file.write(json.dumps(one.as_dict()) + "\n")

    shares = {name: TARGETS[name].share for name in asked.targets}
    for name, share in shares.items():
        count = max(1, round(asked.cases * share / sum(shares.values())))
        numbers, size, began = list(range(asked.first, asked.first + count)), TARGETS[name].batch, time.monotonic()
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            TARGETS[name].before(world)
        try:
            for start in range(0, count, size):
                run_batch(name, numbers[start : start + size], asked.seed, world, scratch, bool(asked.keep), done)
        except KeyboardInterrupt:
            break
        print(f"{name}: {count} cases, {count / (time.monotonic() - began):.0f} a second", flush=True)
    return found


def report(asked: argparse.Namespace, found: Sequence[Outcome], seconds: float) -> None:
    """Print the report, and write the files that the options ask for."""
    text = table(found)
    print(f"\n{text}\n")
    for line in [*failures(found, asked.seed), *nameless(found)]:
        print(line)
    print(f"\n{len(found):,} cases in {seconds:.0f} s, seed {asked.seed}, of {Path(danceopd_ext.__file__).parent}")
    if asked.write:
        command = " ".join(["python scripts/fuzz.py", f"--cases {asked.cases}", f"--seed {asked.seed}"])
        RESULTS.write_text(
            f"# Outcomes of `{command}`\n\n{text}\n\nSlowest case: {max(one.seconds for one in found):.1f} s of the "
            f"processor; most memory of a case: {max(one.megabytes for one in found):,.0f} MiB.\n",
            encoding="utf-8",
        )


def table(found: Iterable[Outcome]) -> str:
    """Return counts by target and outcome, as Markdown."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for one in found:
        counts[one.target][one.outcome] += 1
        counts[one.target]["nameless"] += one.nameless
        counts[one.target]["long"] += one.long
    columns = (*OUTCOMES, "nameless", "long")
    lines = [f"| target | cases | {' | '.join(columns)} |", "|---|" + "--:|" * (len(columns) + 1)]
    totals: Counter[str] = sum(counts.values(), Counter())
    for name, row in [*counts.items(), ("all", totals)]:
        cases = sum(row[outcome] for outcome in OUTCOMES)
        lines.append(f"| {name} | {cases:,} | {' | '.join(f'{row[column]:,}' for column in columns)} |")
    return "\n".join(lines)


def failures(found: Iterable[Outcome], seed: int) -> list[str]:
    """Return every kind of failure, the most frequent first, with the options that repeat its first case."""
    kinds: dict[tuple[str, str, str], list[Outcome]] = defaultdict(list)
    for one in found:
        if one.outcome not in RIGHT:
            kinds[one.outcome, one.where, one.target].append(one)
    lines = []
    for (outcome, where, target), cases in sorted(kinds.items(), key=lambda pair: -len(pair[1])):
        first = min(cases, key=lambda one: len(one.changes))
        more = ", ".join(str(one.number) for one in cases[:6])
        lines += [
            f"{outcome}: {where} ({len(cases)} of {target}: {more})",
            f"    --seed {seed} --only {target}:{first.number}    [{first.stage}] {printable(first.changes)[:160]}",
            f"    {printable(first.message)[:200]}",
            *(f"        {line[:150]}" for line in first.trace[-3:]),
        ]
    return lines


def nameless(found: Iterable[Outcome], most: int = 12) -> list[str]:
    """Return a few refusals that name neither file nor key, and a few that are long."""
    lines = []
    for what in ("nameless", "long"):
        ones = {one.message[:40]: one for one in found if getattr(one, what)}
        lines += [
            f"{what}: {one.target}:{one.number} {printable(one.message)[:200]}" for one in list(ones.values())[:most]
        ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
