"""What the runs inside the toolkits check of a preset, with stand-ins for the toolkits themselves."""

from __future__ import annotations

import argparse
import sys
from types import ModuleType
from typing import Any

import torch

from danceopd_ext.config.hosted_preset import HostedPreset
from danceopd_ext.toolkits.hosted.architecture import find_architecture
from danceopd_ext.toolkits.hosted.argument_rules import refuse
from danceopd_ext.toolkits.hosted.arguments import build_arguments
from danceopd_ext.toolkits.hosted.console import introduction
from danceopd_ext.toolkits.hosted.number_limits import check_numbers
from danceopd_ext.toolkits.hosted.preflight import check_optimizer, check_output, check_precision
from danceopd_ext.toolkits.musubi import run as musubi
from danceopd_ext.toolkits.musubi.argument_rules import RULES as MUSUBI_RULES
from danceopd_ext.toolkits.musubi.defaults import complete
from danceopd_ext.toolkits.sd_scripts import run as sd_scripts
from danceopd_ext.toolkits.sd_scripts.argument_rules import RULES as SD_RULES
from danceopd_ext.toolkits.sd_scripts.registry import ARCHITECTURES
from fuzzing.targets import Stage


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
    networks = ["networks", *(architecture.network_module for architecture in ARCHITECTURES.values())]
    return {"library": package, "library.train_util": util, **{name: ModuleType(name) for name in networks}}


def _optimizer(args: argparse.Namespace, parameters: list) -> tuple[str, str, Any]:
    return "", "", torch.optim.AdamW(parameters)


def _check_sd_scripts(preset: HostedPreset, stage: Stage) -> None:
    architecture = find_architecture(preset)
    preset, _ = sd_scripts.take_sizes(preset)
    arguments = build_arguments(PARSER, preset)
    refuse(arguments, (*SD_RULES, *architecture.refused))
    stage("documents")
    args = sd_scripts.trainer_arguments(arguments, architecture)
    stage("tried out")
    sys.modules.update(toolkit_library())
    sd_scripts.try_out(args, preset, architecture)


def _check_musubi(preset: HostedPreset, stage: Stage) -> None:
    architecture = find_architecture(preset)
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
