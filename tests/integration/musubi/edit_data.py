"""Datasets with source images on disk, read by musubi's own datasets, their caches written by musubi's own functions.

The first number of every text says which dataset it is from.
"""

from __future__ import annotations

import zlib
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

SIZE = (96, 64)
#: what makes a cache file of latents and one of texts from an item, its dataset's number and a seed
Save = Callable[[Any, int, int], None]


def write_pictures(folder: Path, controls: int, count: int = 4) -> Path:
    """Pictures with captions; `controls` source images for each."""
    for name in ("images", "controls", "cache"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", SIZE, (40 * i, 90, 200)).save(folder / "images" / f"{i}.png")
        (folder / "images" / f"{i}.txt").write_text(f"change {i}\n", encoding="utf-8")
        for k in range(controls):
            ending = f"_{k}" if controls > 1 else ""
            Image.new("RGB", SIZE, (10, 40 * i, 60 * k)).save(folder / "controls" / f"{i}{ending}.png")
    return folder


def write_dataset_toml(path: Path, folders: list[Path], batch_size: int = 1) -> Path:
    lines = [f"[general]\nresolution = [{SIZE[0]}, {SIZE[1]}]\nbatch_size = {batch_size}\ncaption_extension = '.txt'\n"]
    for folder in folders:
        entry = f"[[datasets]]\nimage_directory = '{folder}/images'\ncache_directory = '{folder}/cache'\n"
        has_controls = any((folder / "controls").iterdir())
        lines.append(entry + (f"control_directory = '{folder}/controls'\n" if has_controls else ""))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_caches(config: Path, architecture: str, save_latents: Save, save_texts: Save) -> None:
    """Let musubi's datasets read pictures and captions, and save random caches for what they give."""
    from musubi_tuner.dataset import config_utils

    generator = config_utils.BlueprintGenerator(config_utils.ConfigSanitizer())
    blueprint = generator.generate(config_utils.load_user_config(str(config)), Namespace(), architecture=architecture)
    group = config_utils.generate_dataset_group_by_blueprint(blueprint.dataset_group)
    for number, dataset in enumerate(group.datasets):
        for _, items in dataset.retrieve_latent_cache_batches(1):
            for item in items:
                save_latents(item, number, _seed("latents", number, item.item_key))
        for items in dataset.retrieve_text_encoder_output_cache_batches(1):
            for item in items:
                save_texts(item, number, _seed("texts", number, item.item_key))


def _seed(*words: object) -> int:
    """Of the dataset's number and the file's name, not of the folder that the test happens to run in."""
    return zlib.crc32("/".join(Path(str(word)).name for word in words).encode())


def marked(text: torch.Tensor, number: int) -> torch.Tensor:
    """The text [T, D], saying which dataset it is from, clearly enough for a tiny model to tell."""
    text = text + 4 * number
    text[0, 0] = number
    return text.to(torch.bfloat16)


def latent_size(pixels: Any, scale: int) -> tuple[int, int]:
    """(height, width) of the latents of a picture [H, W, 3]."""
    return pixels.shape[0] // scale, pixels.shape[1] // scale
