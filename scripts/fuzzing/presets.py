"""Presets, native and for the toolkits, with files and flags beside them: every check before weights are loaded."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import save_file

from danceopd_ext.config.fields import key_types
from danceopd_ext.config.load import flat_keys, load_preset
from danceopd_ext.config.schema import SECTIONS
from danceopd_ext.config.split import HostedPreset, split_preset
from danceopd_ext.demo import PIPELINE
from danceopd_ext.toolkits.hosted.arguments import build_arguments
from danceopd_ext.toolkits.hosted.numbers import check_numbers
from danceopd_ext.toolkits.hosted.preflight import check_optimizer, check_output, check_precision
from danceopd_ext.toolkits.hosted.refuse import refuse
from danceopd_ext.toolkits.hosted.telling import introduction
from danceopd_ext.toolkits.musubi import run as musubi
from danceopd_ext.toolkits.musubi.defaults import complete
from danceopd_ext.toolkits.musubi.refused import RULES as MUSUBI_RULES
from danceopd_ext.toolkits.musubi.registry import find_architecture
from danceopd_ext.toolkits.native.checks import tensorboard_folder
from danceopd_ext.toolkits.native.merging import merge_teachers
from danceopd_ext.toolkits.native.optimizers import default_optimizer
from danceopd_ext.toolkits.native.prepare import find_all
from danceopd_ext.toolkits.native.trackers import start_trackers
from danceopd_ext.toolkits.native.train import make_accelerator, tell
from danceopd_ext.toolkits.run import parse_command
from danceopd_ext.toolkits.sd_scripts import run as sd_scripts
from danceopd_ext.toolkits.sd_scripts.refused import RULES as SD_RULES
from fuzzing.octets import damaged, replace_file
from fuzzing.targets import Case, Stage, target
from fuzzing.trees import as_toml, changed, few, near
from fuzzing.values import NUMBERS, RAW_NUMBERS, Raw, odd_key, odd_text, odd_value
from fuzzing.worlds import SIZE, World

FILES = ("base.txt", "style.txt", "samples.txt", "style.safetensors")
#: the toolkits' models, as far as they are looked at: file -> names of tensors
MODELS = {
    "lumina.safetensors": ("cap_embedder.0.weight", "noise_refiner.0.attention.qkv.weight"),
    "gemma2.safetensors": ("layers.0.pre_feedforward_layernorm.weight",),
    "ae.safetensors": ("decoder.conv_in.weight", "encoder.conv_in.weight"),
}
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
        preset.optimizer.optimizer_type = preset.optimizer.optimizer_type or default_optimizer(accelerator.device)
        if preset.danceopd.merges and _is_here(preset.saving.output_dir):
            return merge_teachers(preset, accelerator)
        prepared = find_all(preset, accelerator)
        stage("tell")
        tell(prepared, accelerator)
        if preset.logging.log_with == "tensorboard" and _is_here(tensorboard_folder(preset)):
            stage("trackers")
            start_trackers(preset, accelerator, {}, prepared.offline)

    return Case(
        run, told, ["preset.toml", *FILES, *(word.partition("=")[0] for word in words if word.startswith("--"))]
    )


def _is_here(folder: str | Path) -> bool:
    """Whether a folder that may be written lies in that of the case."""
    return Path(os.path.abspath(folder)).is_relative_to(Path.cwd())


def toolkit_parser() -> argparse.ArgumentParser:
    """Arguments of both toolkits' parsers, those that are looked at, with their types and defaults."""
    parser = argparse.ArgumentParser(add_help=False)
    texts = (
        "pretrained_model_name_or_path clip_l clip_g t5xxl vae ae gemma2 qwen3 byt5 text_encoder "
        "text_encoder1 text_encoder2 dit dataset_config train_data_dir reg_data_dir in_json sample_prompts "
        "network_weights network_module log_tracker_config output_dir output_name logging_dir log_prefix "
        "log_tracker_name log_with wandb_api_key wandb_run_name resume tokenizer_cache_dir lr_scheduler_type "
        "dataset_class training_comment metadata_title resolution dynamo_backend loss_type "
        "resume_from_huggingface weighting_scheme timestep_sampling attn_mode state_dict_key dit_dtype "
        "vae_dtype model_version"
    )
    for name in texts.split():
        parser.add_argument(f"--{name}", type=str, default="l2" if name == "loss_type" else None)
    parser.add_argument("--optimizer_type", type=str, default="")
    parser.add_argument("--lr_scheduler", type=str, default="constant")
    for name, default in {
        "network_dim": None, "max_train_steps": 1600, "max_train_epochs": None, "train_batch_size": 1, "seed": None,
        "gradient_accumulation_steps": 1, "save_every_n_steps": None, "sample_every_n_steps": None,
        "blocks_to_swap": None,
        "max_data_loader_n_workers": 8, "text_encoder_batch_size": None, "t5xxl_max_token_length": None,
        "save_last_n_steps": None, "lr_scheduler_num_cycles": 1, "vae_batch_size": 1, "min_timestep": None,
        "max_timestep": None,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in {
        "network_alpha": 1.0, "learning_rate": 2e-6, "unet_lr": None, "network_dropout": None, "max_grad_norm": 1.0,
        "guidance_scale": 1.0, "discrete_flow_shift": 3.0, "lr_scheduler_power": 1.0, "noise_offset": None,
        "huber_c": 0.1,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=float, default=default)
    switches = (
        "cache_text_encoder_outputs cache_text_encoder_outputs_to_disk cache_latents cache_latents_to_disk "
        "shuffle_caption network_train_unet_only network_train_text_encoder_only gradient_checkpointing "
        "persistent_data_loader_workers fp8_base fp8_scaled fp8_text_encoder flash_attn flash3 sage_attn split_attn "
        "apply_t5_attn_mask save_state sdpa xformers mem_eff_attn dim_from_weights masked_loss lowram "
        "sample_at_first"
    )
    for name in switches.split():
        parser.add_argument(f"--{name}", action="store_true")
    for name in ("network_args", "optimizer_args", "lr_scheduler_args", "base_weights"):
        parser.add_argument(f"--{name}", type=str, nargs="*")
    parser.add_argument("--text_encoder_lr", type=float, nargs="*")
    parser.add_argument("--base_weights_multiplier", type=float, nargs="*")
    parser.add_argument("--lr_warmup_steps", type=lambda text: float(text) if "." in text else int(text), default=0)
    parser.add_argument("--mixed_precision", choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument("--save_precision", choices=[None, "float", "fp16", "bf16"])
    parser.add_argument("--save_model_as", choices=[None, "ckpt", "pt", "safetensors"], default="safetensors")
    return parser


PARSER = toolkit_parser()


def hosted_preset(rng: Random) -> dict[str, Any]:
    """A right preset for one of the toolkits."""
    musubi_too = rng.random() < 0.4
    teachers = {"base": {}, "style": {"lora": "style.safetensors", "guidance_scale": 2.0}}
    model = {
        "pretrained_model_name_or_path": "lumina.safetensors",
        "gemma2": "gemma2.safetensors",
        "ae": "ae.safetensors",
    }
    kinds = ("lumina",) * 8 + ("sd3", "flux", "anima", "chroma")
    if musubi_too:
        model = {"dit": "style.safetensors", "vae": "style.safetensors", "text_encoder": "style.safetensors"}
        kinds = ("z_image", "z_image", "flux_kontext")
    return {
        "model": {"model_type": rng.choice(kinds), **model},
        "network": {"network_dim": 4, "network_alpha": 4, "network_args": []},
        "optimizer": {"optimizer_type": "AdamW", "learning_rate": 1e-4, "optimizer_args": ["weight_decay=0.1"]},
        "training": {"max_train_steps": 4, "mixed_precision": "no", "resolution": "64,64", "seed": 1},
        "saving": {"output_dir": "out", "output_name": "fused"},
        "data": {"sample_prompts": "samples.txt"} if rng.random() < 0.5 else {"dataset_config": "dataset.toml"},
        "danceopd": {
            "toolkit": "musubi-tuner" if musubi_too else "sd-scripts", "rollout_steps": 4, "teachers": teachers,
            "prompts": {"base": "base.txt", "style": "style.txt"},
        },
    }  # fmt: skip


@target("hosted", share=20)
def hosted_case(rng: Random, world: World, folder: Path) -> Case:
    """A preset for a toolkit, as far as it can be checked without the toolkit."""
    keys = {action.dest: "training" for action in PARSER._actions}
    keys |= {name: section for name, section in flat_keys().items() if section == "danceopd"}
    document, told = odd_preset(hosted_preset(rng), keys, rng)
    words = odd_flags(list(keys), rng)
    if words:
        told = [*told, few(words)]
    subset, more = changed({"datasets": [{"resolution": SIZE, "subsets": [{"image_dir": "folder"}]}]}, rng)
    for name, tensors in MODELS.items():
        save_file({key: torch.zeros(2, 2) for key in tensors}, folder / name)
    told += write(folder, world, document, rng, MODELS)
    if rng.random() < 0.3:
        told += [f"dataset.toml: {'; '.join(more)}"]
        (folder / "dataset.toml").write_bytes(as_toml(subset).encode("utf-8", "surrogatepass"))
    else:
        (folder / "dataset.toml").write_text('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "folder"\n', "utf-8")

    def run(stage: Stage) -> None:
        stage("read")
        config, flags = parse_command(["--config", "preset.toml", *words])
        hosted = split_preset(config, flags)
        if hosted is None:
            load_preset(config, flags)
        else:
            check_hosted(hosted, stage)

    return Case(
        run,
        told,
        ["preset.toml", "dataset.toml", *FILES, *(word.partition("=")[0] for word in words if word.startswith("--"))],
    )


def check_hosted(preset: HostedPreset, stage: Stage) -> None:
    """What the runs inside the toolkits check, in their order, with a parser of ours in the place of theirs."""
    for note in preset.notes:
        print(note)
    stage("arguments")
    (_check_musubi if preset.toolkit == "musubi-tuner" else _check_sd_scripts)(preset, stage)
    print("\n".join(introduction(preset.danceopd)))


def toolkit_library() -> dict[str, ModuleType]:
    """What is asked of sd-scripts' own modules while a preset is checked."""
    package, util = ModuleType("library"), ModuleType("library.train_util")
    util.get_optimizer, util.get_scheduler_fix = _optimizer, lambda args, optimizer, processes: None
    package.train_util = util
    networks = ["networks", *(architecture.network_module for architecture in sd_scripts.ARCHITECTURES.values())]
    return {"library": package, "library.train_util": util, **{name: ModuleType(name) for name in networks}}


def _optimizer(args: argparse.Namespace, parameters: list) -> tuple[str, str, Any]:
    return "", "", torch.optim.AdamW(parameters)


def _check_sd_scripts(preset: HostedPreset, stage: Stage) -> None:
    architecture = sd_scripts.architecture_of(preset)
    preset, _ = sd_scripts.take_sizes(preset)
    arguments = build_arguments(PARSER, preset)
    refuse(arguments, (*SD_RULES, *architecture.refused))
    stage("documents")
    args = sd_scripts.trainer_arguments(arguments, architecture)
    stage("tried out")
    sys.modules.update(toolkit_library())
    sd_scripts.try_out(args, preset, architecture)


def _check_musubi(preset: HostedPreset, stage: Stage) -> None:
    architecture = find_architecture(preset.model_type)
    arguments = build_arguments(PARSER, preset, musubi.OURS)
    refuse(arguments, MUSUBI_RULES)
    args = arguments.namespace
    check_numbers(args, arguments.given, arguments.defaults, preset.path)
    complete(args, architecture, arguments.given)
    stage("tried out")
    musubi.find_files(args, architecture, preset)
    musubi.settings_of(preset, arguments, architecture)
    check_output(args, preset.path, preset.danceopd.overwrite)
    check_precision(args, preset.path)
    check_optimizer(args, preset.path, _optimizer, lambda args, made: None)
