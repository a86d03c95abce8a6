"""Prompt files, sample prompts, and the benchmarks' prompts."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from random import Random
from typing import Any

from danceopd_ext.errors import UserError
from danceopd_ext.evaluation.jobs import gedit_jobs, geneval_jobs
from danceopd_ext.evaluation.loras import parse_loras
from danceopd_ext.toolkits.native.prompt_lines import read_preview_prompts
from fuzzing.data import loader, put
from fuzzing.targets import Case, Stage, target
from fuzzing.trees import as_json, as_toml, changed
from fuzzing.values import odd_text
from fuzzing.worlds import SIZE, World

ROWS = [
    {"prompt": "a red circle", "width": SIZE, "height": SIZE, "source": "", "target": "pictures/0.png"},
    {"prompt": "make it, blue", "width": "", "height": "", "source": "pictures/1.png", "target": ""},
    {
        "prompt": 'say "hello"',
        "width": 128,
        "height": SIZE,
        "source": '["pictures/1.png", "pictures/2.png"]',
        "target": "",
    },
]
GENEVAL = {"tag": "single", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}
GEDIT = {
    "task_type": "style", "key": "k1", "instruction": "make it blue", "instruction_language": "en",
    "input_image": "pictures/0.png",
}  # fmt: skip
LINES = (
    "a red circle", "a blue square --w 64 --h 64", "# a comment", "a {red|blue} circle",
    "make it green --ci pictures/0.png",
    "a cat --n blurry --d 5 --s 4 --l 3.5", "Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 1",
)  # fmt: skip
FLAGS = (
    "--w",
    "--h",
    "--d",
    "--s",
    "--l",
    "--n",
    "--ci",
    "--cn",
    "--g",
    "--ss",
    "--fs",
    "--f",
    "--x",
    "--w=",
    "--D",
    "--",
    "---",
)
SAMPLES = {
    "prompt": {"width": SIZE, "height": SIZE, "sample_steps": 4, "scale": 2.0, "seed": 3, "negative_prompt": "blurry",
               "subset": [{"prompt": "a cat"}, {"prompt": "a dog", "seed": 4, "controlnet_image": "pictures/0.png"}]}
}  # fmt: skip


@target("prompts", share=12)
def prompts_case(rng: Random, world: World, folder: Path) -> Case:
    """A prompt file: lines with flags, a table, or lines of JSON."""
    shutil.copytree(world.folder / "pictures", folder / "pictures")
    suffix, told = rng.choice((".txt", ".csv", ".csv", ".jsonl")), []
    if suffix == ".txt":
        text, told = odd_lines(rng)
    else:
        rows, told = changed(ROWS, rng) if rng.random() < 0.75 else (ROWS, [])
        rows = rows if isinstance(rows, list) else [rows]
        text = "\n".join(map(as_json, rows)) if suffix == ".jsonl" else as_csv(rows, rng)
    told += put(folder / f"prompts{suffix}", text, rng, 0.35)
    (folder / "base.txt").write_text("a red circle\n", "utf-8")
    prompts = {"base": "base.txt", "style": f"prompts{suffix}"}
    return Case(loader(world, {"prompts": prompts}, rng), told, ["prompts.", "pictures"])


def odd_lines(rng: Random) -> tuple[str, list[str]]:
    """Prompts a line, some with flags of odd values."""
    lines = [rng.choice(LINES) for _ in range(rng.randint(1, 5))]
    for _ in range(rng.choice((0, 1, 1, 2))):
        place = rng.randrange(len(lines))
        lines[place] += f" {rng.choice(FLAGS)} {odd_text(rng)}"
    return rng.choice(("\n", "\n", "\r\n", "\r", "\n\n")).join(lines), [ascii(" / ".join(lines))[:120]]


def as_csv(rows: list[Any], rng: Random) -> str:
    """A table as spreadsheets write it, or nearly."""
    out = io.StringIO()
    columns = list(next((row for row in rows if isinstance(row, dict)), {"prompt": ""}))
    quote = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(out, delimiter=rng.choice((",", ",", ";", "\t", "|")), quoting=quote)
    if rng.random() < 0.1:
        out.write(rng.choice(("sep=;\n", 'sep="\n', "sep=\0\n", 'sep=""\n', "sep=\n\n")))
    records = [[str(column) for column in columns]]
    records += [
        [str(row.get(column, "")) for column in columns] if isinstance(row, dict) else [str(row)] for row in rows
    ]
    for record in records:
        try:
            writer.writerow(record)
        except (csv.Error, ValueError):
            out.write(",".join(record) + "\n")
    text = out.getvalue()
    if rng.random() < 0.2:  # a quote that is not closed, in the header or below
        place = rng.randint(0, len(text) if rng.random() < 0.5 else 20)
        text = text[:place] + '"' + text[place:] + "x" * rng.choice((0, 200_000))
    return text


@target("samples", share=10)
def samples_case(rng: Random, world: World, folder: Path) -> Case:
    """A file of sample prompts."""
    shutil.copytree(world.folder / "pictures", folder / "pictures")
    suffix = rng.choice((".txt", ".toml", ".json"))
    if suffix == ".txt":
        text, told = odd_lines(rng)
    elif suffix == ".toml":
        tree, told = changed(SAMPLES, rng)
        text = as_toml(tree)
    else:
        tree, told = changed(
            [{**SAMPLES["prompt"]["subset"][1], "width": SIZE}, "a cat --w 64 --h 64", {"prompt": "x"}], rng
        )
        text = as_json(tree)
    told += put(folder / f"samples{suffix}", text, rng, 0.25)

    def run(stage: Stage) -> None:
        stage("read")
        notes: list[str] = []
        rules, limits = world.model.source_images(), world.model.size_limits
        for prompt in read_preview_prompts(f"samples{suffix}", limits, rules, (SIZE, SIZE), notes):
            prompt.prompt.encode("utf-8", "backslashreplace")
        print("\n".join(notes))

    return Case(run, told, [f"samples{suffix}", "pictures"])


@target("benchmark", share=4)
def benchmark_case(rng: Random, world: World, folder: Path) -> Case:
    """A benchmark's prompts, for the evaluation, and the LoRAs that its command line names."""
    shutil.copytree(world.folder / "pictures", folder / "pictures")
    gedit, flags = rng.random() < 0.5, [f"{rng.choice(('a', odd_text(rng)))}={odd_text(rng)}" for _ in range(2)]
    rows, told = changed([GEDIT, {**GEDIT, "key": "k2"}] if gedit else [GENEVAL, GENEVAL], rng)
    text = "\n".join(map(as_json, rows if isinstance(rows, list) else [rows]))
    told += put(folder / "prompts.jsonl", text, rng, 0.25)

    def run(stage: Stage) -> None:
        stage("loras")
        try:
            parse_loras(flags)
        except UserError as refusal:
            print(refusal)
        stage("jobs")
        path = Path("prompts.jsonl")
        for job in gedit_jobs(path) if gedit else geneval_jobs(path, 2):
            print(job.name, job.content_digest, [len(job.content(file)) for file in job.scorer_files])

    return Case(run, told, ["prompts.jsonl", "pictures"])
