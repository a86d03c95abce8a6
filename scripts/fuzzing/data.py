"""Datasets with their captions and pictures, prompt files, and sample prompts."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from danceopd_ext.data.load import load_data
from danceopd_ext.errors import UserError
from danceopd_ext.evaluation.jobs import gedit_jobs, geneval_jobs
from danceopd_ext.evaluation.loras import parse_loras
from danceopd_ext.toolkits.native.checks import find_pictures, source_rules
from danceopd_ext.toolkits.native.prompt_lines import read_preview_prompts
from fuzzing.octets import damaged, replace_file
from fuzzing.targets import Case, Stage, target
from fuzzing.trees import as_json, as_toml, changed
from fuzzing.values import odd_text
from fuzzing.worlds import SIZE, World

ROUTES = ("base", "style")
DATASET = {
    "general": {"caption_extension": ".txt", "shuffle_caption": False, "keep_tokens": 1, "enable_bucket": True},
    "datasets": [
        {
            "resolution": SIZE, "batch_size": 1, "min_bucket_reso": SIZE, "max_bucket_reso": 128,
            "bucket_reso_steps": 16,
            "subsets": [
                {"image_dir": "pictures", "num_repeats": 2, "caption_prefix": "photo,", "enable_wildcard": True,
                 "caption_dropout_rate": 0.1, "custom_attributes": {"teacher": "base"}},
                {"metadata_file": "meta.json", "image_dir": "pictures", "custom_attributes": {"teacher": "style"}},
            ],
        },
        {
            "resolution": [SIZE, SIZE], "enable_bucket": False,
            "subsets": [{"image_dir": "pictures", "conditioning_data_dir": "pictures", "class_tokens": "a circle",
                         "recursive": True, "custom_attributes": {"teacher": "style"}}],
        },
    ],
}  # fmt: skip
#: keys that datasets have as well
MORE = (
    "caption_separator", "caption_suffix", "caption_tag_dropout_rate", "caption_dropout_every_n_epochs",
    "keep_tokens",
    "keep_tokens_separator", "secondary_separator", "bucket_no_upscale", "source_dir", "control_directory", "is_reg",
    "flip_aug", "random_crop", "token_warmup_step", "face_crop_aug_range", "cache_info", "video_directory",
    "num_frames",
)  # fmt: skip
METADATA = {
    "0.png": {"caption": "a red circle", "tags": "red, circle", "image_size": [SIZE, SIZE]},
    "1": {"caption": "a blue circle", "train_resolution": [SIZE, 128]},
    "pictures/2.png": {"tags": "green"},
}
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


def put(path: Path, text: str, rng: Random, share: float) -> list[str]:
    """Write a text; `share` of them damaged byte by byte or replaced by what is no file. What is odd, in words."""
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    if rng.random() >= share:
        return []
    if rng.random() < 0.25:
        return [replace_file(path, rng)]
    data, told = damaged(path.read_bytes(), rng)
    path.write_bytes(data)
    return [f"{path.name}: {told}"]


@target("dataset", share=16)
def dataset_case(rng: Random, world: World, folder: Path) -> Case:
    """A dataset configuration, TOML or JSON, with pictures, captions and a metadata file."""
    shutil.copytree(world.folder / "pictures", folder / "pictures")
    which, told = rng.choice(("config", "config", "config", "meta", "meta", "caption", "picture")), []
    config: Any = DATASET
    if which == "config":
        if rng.random() < 0.3:
            config = {
                **DATASET,
                "general": {**DATASET["general"], rng.choice(MORE): rng.choice((True, 1, "x", [1, 2]))},
            }
        config, told = changed(config, rng)
    json_too = rng.random() < 0.2
    path = folder / ("dataset.json" if json_too else "dataset.toml")
    told += put(path, (as_json if json_too else as_toml)(config), rng, 0.25 if which == "config" else 0)
    meta, more = changed(METADATA, rng) if which == "meta" else (METADATA, [])
    told += more
    as_lines = (
        which != "config"
        and rng.random() < 0.2
        and isinstance(meta, dict)
        and all(isinstance(entry, dict) for entry in meta.values())
    )
    text = (
        "\n".join(as_json({"image_path": key, **entry}) for key, entry in meta.items()) if as_lines else as_json(meta)
    )
    told += put(folder / "meta.json", text, rng, 0.3 if which == "meta" else 0)
    if as_lines:
        (folder / "meta.json").replace(folder / "meta.jsonl")
        if path.is_file():
            path.write_bytes(path.read_bytes().replace(b"meta.json", b"meta.jsonl"))
    if which == "caption":
        told += put(folder / "pictures" / "0.txt", odd_text(rng) * rng.choice((1, 1, 3)), rng, 0.5)
    if which == "picture":
        told += odd_picture(folder / "pictures" / f"{rng.randrange(3)}.png", rng)
    return Case(_loader(world, {"dataset_config": path.name}, rng), told, ["dataset", "meta.json", "pictures"])


def odd_picture(path: Path, rng: Random) -> list[str]:
    """Damage a picture, or put another in its place: of another kind, of extreme sizes, or none at all."""
    kind = rng.random()
    if kind < 0.25:
        return [replace_file(path, rng)]
    if kind < 0.5:
        data, told = damaged(path.read_bytes(), rng)
        path.write_bytes(data)
        return [f"{path.name}: {told}"]
    if kind < 0.6:
        text = rng.choice(
            (
                "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n",
                "<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'/>",
                "P6 99999 99999 255\n",
                "P1\n2 2\n0 1 2",
                "GIF89a\xff\xff\xff\xff",
                "#define x_width 99999\n#define x_height 99999\nstatic char x_bits[] = {0",
            )
        )
        path.write_text(text, "latin-1")
        return [f"{path.name}: {text[:20]!a}"]
    mode, form = (
        rng.choice(("1", "L", "LA", "P", "RGBA", "I;16", "I", "F", "CMYK", "YCbCr")),
        rng.choice(("PNG", "TIFF", "GIF")),
    )
    large = ((13_000, 13_000), (20_000, 20_000), (60_000, 1), (1, 60_000)) if mode in ("1", "P") else ((4000, 16),)
    size = rng.choice((*large, (1, 1), (SIZE, SIZE), (SIZE, 1), (97, 31)))
    try:
        Image.new(mode, size).save(path, form)
    except (OSError, ValueError, KeyError):
        Image.new("RGBA", (1, 1)).save(path, "PNG")
    return [f"{path.name}: {form}, {mode}, {size}"]


def _loader(world: World, data: dict[str, Any], rng: Random) -> Callable[[Stage], None]:
    method, seed = rng.choice(("danceopd", "offpolicy")), rng.randrange(100)

    def run(stage: Stage) -> None:
        stage("load")
        rules = source_rules(world.source, world.model[1])
        plan, notes = load_data(
            ROUTES, resolution=SIZE, seed=seed, train_batch_size=2, micro_batches=2, sources=rules, **data
        )
        limits = world.source.family.size_limits(world.model[1], world.source.vae_scale_factor)
        plan.check_sizes(limits.multiple, limits.multiple, limits.maximum)
        stage("pictures")
        find_pictures(method, plan, notes)
        stage("plan")
        for line in [*notes, *map(str, plan.summary()), plan.fingerprint(), len(plan.all_prompts(6))]:
            print(line)

    return run


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
    return Case(_loader(world, {"prompts": prompts}, rng), told, ["prompts.", "pictures"])


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
        rules = source_rules(world.source, world.model[1])
        for prompt in read_preview_prompts(
            f"samples{suffix}", world.source, world.model[1], rules, (SIZE, SIZE), notes
        ):
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
            print(job.name, job.asked, [len(job.content(file)) for file in job.beside])

    return Case(run, told, ["prompts.jsonl", "pictures"])
