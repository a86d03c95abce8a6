"""Presets, native and for the toolkits, with files and flags beside them: every check before weights are loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from accelerate.state import AcceleratorState, GradientState

from danceopd_ext.config.fields import key_types
from danceopd_ext.config.hosted_preset import split_preset
from danceopd_ext.config.load import flat_keys, load_preset
from danceopd_ext.config.schema import SECTIONS
from danceopd_ext.demo import PIPELINE
from danceopd_ext.toolkits.native.checks import tensorboard_folder
from danceopd_ext.toolkits.native.merging import merge_teachers
from danceopd_ext.toolkits.native.prepare import find_all
from danceopd_ext.toolkits.native.trackers import start_trackers
from danceopd_ext.toolkits.native.train import make_accelerator, tell
from danceopd_ext.toolkits.run import parse_command
from fuzzing.octets import damaged, replace_file
from fuzzing.targets import Case, Stage, target
from fuzzing.toolkits import check_hosted
from fuzzing.trees import as_toml, changed, few, near
from fuzzing.values import NUMBERS, RAW_NUMBERS, Raw, odd_key, odd_text, odd_value
from fuzzing.worlds import SIZE, World

FILES = ("base.txt", "style.txt", "samples.txt", "style.safetensors")
#: key -> its type, of all sections
TYPES = {name: kind for section in SECTIONS.values() for name, kind in key_types(section).items()}
#: key -> a value that is right, for presets that are not all alike
RIGHT: dict[str, tuple[Any, ...]] = {
    "resolution": (SIZE, "64,64", [SIZE]), "optimizer_type": ("AdamW", "Adafactor", "torch.optim.SGD", "SGDNesterov"),
    "optimizer_args": ([], ["weight_decay=0.1"], ["betas=0.9,0.99"]), "lr_scheduler": ("constant", "cosine",
    "polynomial"),
    "lr_scheduler_args": ([],), "lr_warmup_steps": (0, 0.1), "network_alpha": (2.0,), "network_dropout": (0.1,),
    "network_weights": ("style.safetensors",), "sample_prompts": ("samples.txt",), "sample_every_n_steps": (2,),
    "log_with": ("tensorboard", None), "logging_dir": ("logs",), "save_every_n_steps": (2,), "query": ("uniform",),
    "method": ("danceopd", "diffusionopd", "merge_sum"), "student_init": ("fresh", "merge_sum"),
    "lora_targets": ([],),
    "num_queries": (1, 2), "rollout_batch_size": (2,), "student_guidance_scale": (1.0, 2.0), "overwrite": (True,),
    "text_encoder_cache_dir": ("cache",), "training_comment": ("a comment",), "save_precision": ("bf16",),
    "seed": (3,),
}  # fmt: skip


def native_preset(rng: Random) -> dict[str, Any]:
    """A right preset for the demo's model."""
    document: dict[str, Any] = {
        "model": {"pretrained_model_name_or_path": str(PIPELINE)},
        "dataset": {"resolution": SIZE},
        "network": {"network_dim": 2},
        "optimizer": {"optimizer_type": "AdamW", "learning_rate": 1e-3},
        "training": {"max_train_steps": 4, "mixed_precision": "no", "gradient_accumulation_steps": 2, "seed": 1},
        "saving": {"output_dir": "out", "output_name": "fused"},
        "danceopd": {
            "rollout_steps": 4,
            "teachers": {"base": {"guidance_scale": 2.0}, "style": {"lora": "style.safetensors", "strength": 0.5}},
            "prompts": {"base": "base.txt", "style": ["style.txt"]},
            "routes": {"base": 1.0, "style": 2.0},
        },
    }
    keys = {name: section for name, section in flat_keys().items() if name in RIGHT}
    for name in rng.sample(sorted(keys), rng.choice((0, 1, 2, 4))):
        document.setdefault(keys[name], {})[name] = rng.choice(RIGHT[name])
    return document


def odd_of_type(name: str, rng: Random) -> Any:
    """An odd value of the type that the key has."""
    kind = str(TYPES.get(name, ""))
    if "Literal" in kind or "str" in kind:
        text = odd_text(rng)
        return [text, odd_text(rng)][: rng.randint(0, 2)] if "list" in kind else text
    if "bool" in kind:
        return rng.random() < 0.5
    if "float" in kind or "int" in kind:
        return rng.choice((*NUMBERS, *RAW_NUMBERS))
    return rng.choice((odd_text(rng), rng.choice(NUMBERS), [odd_text(rng)]))


def odd_preset(document: dict[str, Any], keys: dict[str, str], rng: Random) -> tuple[Any, list[str]]:
    """The document with an odd value for a known key, mostly, or otherwise changed."""
    if (kind := rng.random()) < 0.2:
        return document, []
    if kind < 0.4:
        return changed(document, rng)
    told = []
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(sorted(keys))
        table = document.setdefault(keys[name], {}) if keys[name] else document
        kind = rng.random()
        if name in table and kind < 0.25:
            table[name] = near(table[name], rng)
        elif name in RIGHT and kind < 0.35:
            table[name] = near(rng.choice(RIGHT[name]), rng)
        else:
            table[name] = odd_of_type(name, rng) if kind < 0.75 else odd_value(rng)
        told.append(f"{name} = {few(table[name])}")
    return document, told


def odd_flags(keys: list[str], rng: Random) -> list[str]:
    """Words of a command line, without zero characters, which no command line has."""
    words: list[str] = []
    if rng.random() < 0.15:
        for _ in range(rng.choice((1, 1, 2))):
            name = rng.choice(keys) if rng.random() < 0.9 else odd_key(rng)
            value = odd_value(rng)
            value = str(value) if isinstance(value, Raw | str) or rng.random() < 0.5 else odd_text(rng)
            words += [f"--{name}={value}"] if rng.random() < 0.3 else [f"--{name}", *value.split(" ")[:3]]
    return [word.replace("\0", "") for word in words]


def write(folder: Path, world: World, document: Any, rng: Random, more: Iterable[str] = ()) -> list[str]:
    """The preset and its files; some of them damaged, or `more` that are there, which is returned in words."""
    for name in FILES:
        (folder / name).write_bytes((world.folder / name).read_bytes())
    path, told = folder / "preset.toml", []
    path.write_bytes(as_toml(document).encode("utf-8", "surrogatepass"))
    kind = rng.random()
    if kind < 0.10:
        data, what = damaged(path.read_bytes(), rng)
        path.write_bytes(data)
        told = [f"preset.toml: {what}"]
    elif kind < 0.12:
        told = [replace_file(path, rng)]
    elif kind < 0.22:
        told = [replace_file(folder / rng.choice((*FILES, *more)), rng)]
    elif kind < 0.32:
        file = folder / rng.choice((*FILES, *more))
        data, what = damaged(file.read_bytes(), rng)
        file.write_bytes(data)
        told = [f"{file.name}: {what}"]
    return told


@target("preset", share=40)
def native_case(rng: Random, world: World, folder: Path) -> Case:
    """A native preset, read, checked, and told about as before training."""
    keys = flat_keys()
    document, told = odd_preset(native_preset(rng), keys, rng)
    words = odd_flags(list(keys), rng)
    if words:
        told = [*told, few(words)]
    told += write(folder, world, document, rng)

    def run(stage: Stage) -> None:
        stage("read")
        config, flags = parse_command(["--config", "preset.toml", *words])
        if (hosted := split_preset(config, flags)) is not None:
            return check_hosted(hosted, stage)
        preset = load_preset(config, flags)
        stage("check")
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        accelerator = make_accelerator(preset)
        if preset.danceopd.merges and _is_here(preset.saving.output_dir):
            return merge_teachers(preset, accelerator)
        plan = find_all(preset, accelerator)
        stage("tell")
        tell(plan, accelerator)
        if preset.logging.log_with == "tensorboard" and _is_here(tensorboard_folder(preset)):
            stage("trackers")
            start_trackers(preset, accelerator, {}, plan.offline)

    return Case(
        run, told, ["preset.toml", *FILES, *(word.partition("=")[0] for word in words if word.startswith("--"))]
    )


def _is_here(folder: str | Path) -> bool:
    """Whether a folder that may be written lies in that of the case."""
    return Path(os.path.abspath(folder)).is_relative_to(Path.cwd())
