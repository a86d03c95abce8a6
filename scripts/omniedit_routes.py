"""Turn OmniEdit-style edit data into folders that an edit route reads, local and global edits apart.

    python scripts/omniedit_routes.py TIGER-Lab/OmniEdit-Filtered-1.2M --out data/edits --limit 2000
    python scripts/omniedit_routes.py train-00000.parquet --out data/edits

Each row has src_img, edited_img, edited_prompt_list and task. Edits of style, background, environment, weather,
lighting or tone are global, the others local (the paper's split); --task swap=global changes that for one task. Writes

    OUT/local/source/000000.png    what is edited: conditioning_data_dir in sd-scripts, control_directory in musubi
    OUT/local/target/000000.png    what the data says should come out, with its instruction in 000000.txt: image_dir
    OUT/local.csv                  the same as columns prompt, source, target
    OUT/global/..., OUT/global.csv
    OUT/dataset.toml               both as subsets, for `dataset_config`

DanceOPD needs no target: the teacher says what should come out. Rows that are there already are not written again.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from danceopd_ext.cli import run
from danceopd_ext.data.tables import Row, picture_of, read_rows, text_of
from danceopd_ext.errors import UserError
from danceopd_ext.files import whole_file

GLOBAL_WORDS = ("style", "background", "env", "weather", "light", "tone")
ROUTES = ("local", "global")
DATASET = """\
[general]
caption_extension = ".txt"

[[datasets]]
resolution = 1024
enable_bucket = true
{subsets}"""
SUBSET = """
  [[datasets.subsets]]
  image_dir = '{folder}/target'
  conditioning_data_dir = '{folder}/source'
  custom_attributes.teacher = "{route}"
"""


def main(argv: Sequence[str]) -> None:
    """Read, split and write. Raises UserError."""
    arguments = parser().parse_args(argv)
    chosen = dict(parse_task(text) for text in arguments.task)
    out = Path(arguments.out)
    listed: dict[str, list[tuple[str, Path, Path]]] = {route: [] for route in ROUTES}
    with tqdm(total=arguments.limit, desc="writing", unit="edit") as bar:
        for where, row, folder in rows_of(arguments.data):
            task = text_of(row, "task", where)
            route = chosen.get(task, route_of_task(task))
            if arguments.limit and len(listed[route]) >= arguments.limit:
                if all(len(entries) >= arguments.limit for entries in listed.values()):
                    break
                continue
            listed[route].append(write_edit(row, out / route, len(listed[route]), folder, where))
            bar.update()
    found = {route: entries for route, entries in listed.items() if entries}
    if not found:
        raise UserError(f"{arguments.data}: there is no row in it.")
    for route, entries in found.items():
        write_table(out / f"{route}.csv", entries)
        print(f"{route}: {len(entries)} edits in {out / route}")
    subsets = "".join(SUBSET.format(folder=(out / route).resolve().as_posix(), route=route) for route in found)
    with whole_file(out / "dataset.toml") as part:
        part.write_text(DATASET.format(subsets=subsets), encoding="utf-8")
    print(f"dataset_config = '{(out / 'dataset.toml').as_posix()}'")


def route_of_task(task: str) -> str:
    """`global` for the tasks that change the whole picture (paper, training data), else `local`."""
    return "global" if any(word in task.lower() for word in GLOBAL_WORDS) else "local"


def instruction_of(row: Row, where: str) -> str:
    """The last of the row's wordings: OmniEdit puts the short one last."""
    texts = row.get("edited_prompt_list")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not isinstance(texts[-1], str) or not texts[-1].strip():
        raise UserError(f'{where}: "edited_prompt_list" holds no instruction.')
    return " ".join(texts[-1].split())


def write_edit(row: Row, folder: Path, number: int, base: Path, where: str) -> tuple[str, Path, Path]:
    """Write source, target and instruction unless they are there; return (instruction, source, target)."""
    instruction = instruction_of(row, where)
    source, target = (folder / kind / f"{number:06d}.png" for kind in ("source", "target"))
    for path, name in ((source, "src_img"), (target, "edited_img")):
        if not path.is_file():
            picture = Image.open(io.BytesIO(picture_of(row, name, base, where))).convert("RGB")
            with whole_file(path) as part:
                picture.save(part, format="PNG")
    with whole_file(target.with_suffix(".txt")) as part:
        part.write_text(instruction + "\n", encoding="utf-8")
    return instruction, source, target


def write_table(path: Path, entries: Sequence[tuple[str, Path, Path]]) -> None:
    with whole_file(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("prompt", "source", "target"))
        for prompt, *pictures in entries:
            table.writerow((prompt, *(p.relative_to(path.parent).as_posix() for p in pictures)))


def rows_of(data: str) -> Iterator[tuple[str, Row, Path]]:
    """(where, row, folder of its pictures) of a local file or folder, or of a dataset on the hub, file by file."""
    path = Path(data)
    if path.exists():
        yield from ((where, row, path if path.is_dir() else path.parent) for where, row in read_rows(path))
        return
    for file in hub_files(data):
        yield from ((where, row, file.parent) for where, row in read_rows(file))


def hub_files(name: str) -> Iterator[Path]:
    """The .parquet files of a hub dataset's training split, each downloaded when it is needed."""
    from huggingface_hub import HfApi, hf_hub_download

    try:
        files = sorted(f for f in HfApi().list_repo_files(name, repo_type="dataset") if f.endswith(".parquet"))
        training = [file for file in files if "train" in file] or files
        if not training:
            raise UserError(f"{name}: the dataset has no .parquet file.")
        for file in training:
            yield Path(hf_hub_download(name, file, repo_type="dataset"))
    except UserError:
        raise
    except Exception as error:  # the hub client raises its own, transport and OS errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} is no file or folder here, and the hub does not give it ({reason}).") from None


def parse_task(text: str) -> tuple[str, str]:
    task, _, route = text.rpartition("=")
    if not task or route not in ROUTES:
        raise UserError(f"--task {text}: write TASK=local or TASK=global.")
    return task, route


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("data", help="hub id of a dataset, or a .parquet or .jsonl file, or a folder of .parquet files")
    made.add_argument("--out", required=True, help="folder to write")
    made.add_argument("--limit", type=int, help="at most so many edits of each kind")
    made.add_argument("--task", action="append", default=[], help="TASK=local or TASK=global; may be repeated")
    return made


if __name__ == "__main__":
    sys.exit(run(main))
