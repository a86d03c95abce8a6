"""Datasets with their captions, metadata files and pictures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from danceopd_ext.data.load import load_data
from danceopd_ext.toolkits.native.checks import find_pictures
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
    return Case(loader(world, {"dataset_config": path.name}, rng), told, ["dataset", "meta.json", "pictures"])


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


def loader(world: World, data: dict[str, Any], rng: Random) -> Callable[[Stage], None]:
    """Return a case that reads this data as a training run does."""
    method, seed = rng.choice(("danceopd", "offpolicy")), rng.randrange(100)

    def run(stage: Stage) -> None:
        stage("load")
        rules, limits = world.model.source_images(), world.model.size_limits
        plan, notes = load_data(
            ROUTES, resolution=SIZE, seed=seed, train_batch_size=2, micro_batches=2, sources=rules, **data
        )
        plan.check_sizes(limits.multiple, limits.multiple, limits.maximum)
        stage("pictures")
        find_pictures(method, plan, notes)
        stage("plan")
        for line in [*notes, *map(str, plan.summary()), plan.fingerprint(), len(plan.all_prompts(6))]:
            print(line)

    return run
