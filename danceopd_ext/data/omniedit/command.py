"""Turn OmniEdit-style edit data into folders that an edit route reads, local and global edits apart.

Each row has src_img, edited_img, edited_prompt_list and task. Edits of style, background, environment, weather,
lighting or tone are global, the others local (the paper's split); --task swap=global changes that for one task. Writes

    OUT/local/source/000000.png    what is edited
    OUT/local/target/000000.png    what the data says should come out, with its instruction in 000000.txt
    OUT/local.csv                  the same as columns prompt, source, target
    OUT/global/..., OUT/global.csv
    OUT/dataset.toml               both as subsets, for the native trainer, at the resolution of its preset
    OUT/settings.json              what all this was made from

The native trainer takes dataset.toml as its `dataset_config`, with teachers named `local` and `global`. musubi-tuner
takes the folders, in a dataset file of its own form: a target folder as image_directory, the source folder beside it as
control_directory. DanceOPD needs no target: the teacher says what should come out.

Of a hub dataset whole .parquet files are fetched, one after the other, until both kinds are full; without --limit all
of its training split. A run that was cut off goes on where it was, and one with a larger --limit adds to what is there;
other data or other options need another OUT.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from danceopd_ext.data.omniedit.edits import GLOBAL_WORDS, ROUTES, Edit, read_edits, write_edit
from danceopd_ext.data.omniedit.rows import hub_files, rows_of
from danceopd_ext.data.omniedit.settings import SETTINGS, check_settings, digest_of
from danceopd_ext.data.omniedit.tables import write_tables
from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_file
from danceopd_ext.whole_numbers import positive

EXAMPLE = """\
example, 2000 edits of each kind, and a training of both (edits.toml has [danceopd.teachers.local] and .global):

    python scripts/omniedit_routes.py TIGER-Lab/OmniEdit-Filtered-1.2M --out data/edits --limit 2000
    python train_danceopd.py --config edits.toml --dataset_config data/edits/dataset.toml
"""


def main(argv: Sequence[str]) -> None:
    """Read, split and write. Raises UserError."""
    arguments = parser().parse_args(argv)
    chosen = dict(parse_task(text) for text in arguments.task)
    hub = [] if os.path.exists(arguments.data) else hub_files(arguments.data)
    settings = {
        "data": digest_of(arguments.data, hub),
        "--task": ", ".join(sorted(f"{task}={route}" for task, route in chosen.items())),
        "--limit": arguments.limit,
        "the split": " ".join(GLOBAL_WORDS),
    }
    out = Path(arguments.out)
    check_settings(out, settings)
    listed: dict[str, list[Edit]] = {route: [] for route in ROUTES}
    tasks: set[str] = set()
    for route, edit, pictures in read_edits(rows_of(arguments.data, hub), chosen, arguments, listed, tasks):
        if not any(listed.values()):  # the first row that is sound: before it nothing is written
            with whole_file(out / SETTINGS) as part:
                part.write_text(json.dumps(settings, indent=2), encoding="utf-8")
        write_edit(edit, pictures)
        listed[route].append(edit)
    found = {route: edits for route, edits in listed.items() if edits}
    if not found:
        raise UserError(f"{arguments.data}: none of its rows can be used.")
    write_tables(out, found)
    for task in chosen.keys() - tasks:
        print(
            f"note: --task {task}: none of the rows that were read has this task; their tasks are "
            f"{', '.join(sorted(tasks))}"
        )


def parse_task(text: str) -> tuple[str, str]:
    """Return (task, route) of "TASK=local" or "TASK=global". Raises UserError."""
    task, _, route = text.rpartition("=")
    if not task or route not in ROUTES:
        raise UserError(f"--task {text}: write TASK=local or TASK=global.")
    return task, route


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=raw)
    made.add_argument("data", help="hub id of a dataset, or a .parquet or .jsonl file, or a folder of .parquet files")
    made.add_argument("--out", required=True, help="folder to write")
    made.add_argument("--limit", type=positive, help="largest number of edits of each kind (default: all)")
    made.add_argument("--skip_broken", action="store_true", help="leave out rows whose pictures cannot be read")
    made.add_argument("--task", action="append", default=[], help="TASK=local or TASK=global; may be repeated")
    return made
