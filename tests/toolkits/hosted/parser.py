"""A parser with every kind of argument that the toolkits' parsers have, and presets for it."""

from __future__ import annotations

import argparse
from pathlib import Path

from danceopd_ext.config.danceopd import DanceOPDSection, Teacher
from danceopd_ext.config.hosted_preset import HostedPreset
from danceopd_ext.toolkits.hosted.arguments import Arguments, build_arguments


def int_or_float(text: str):
    """A type as the toolkits write them: a function of text."""
    if not text.replace(".", "").isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is no number")
    return float(text) if "." in text else int(text)


def str2bool(text: str) -> bool:
    if text.lower() not in ("true", "1", "false", "0"):
        raise ValueError(text)
    return text.lower() in ("true", "1")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config_file")
    parser.add_argument("--output_config", action="store_true")
    parser.add_argument("--output_name", type=str)
    parser.add_argument("--dataset_config", type=Path)
    parser.add_argument("--untyped", default="a")
    parser.add_argument("--dim", type=int, default=4)
    parser.add_argument("--alpha", type=float, default=1)
    parser.add_argument("--default_text", type=int, default="7")
    parser.add_argument("--warmup", type=int_or_float, default=0)
    parser.add_argument("--flip", type=str2bool, default=False)
    parser.add_argument("--plain_bool", type=bool, default=False)
    parser.add_argument("--precision", choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument("--stage", type=int, choices=[None, 0, 1, 2])
    parser.add_argument("--network_args", nargs="*")
    parser.add_argument("--rates", type=float, nargs="+")
    parser.add_argument("--betas", type=float, nargs=2)
    parser.add_argument("--offload", nargs="?", const="all")
    parser.add_argument("--kinds", nargs="*", choices=["style", "edit"])
    parser.add_argument("--sdpa", action="store_true")
    parser.add_argument("--no_half", dest="half", action="store_false")
    parser.add_argument("--shuffle", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--flash-attn", "--fa", dest="attention_flash", action="store_true")
    parser.add_argument("--version", action="version", version="1")
    parser.set_defaults(hidden=5)
    return parser


def build(values=None, flags=None, ours=(), parser=None) -> Arguments:
    """Arguments from values of the preset p.toml and words of the command line."""
    preset = HostedPreset(
        path=Path("p.toml"),
        toolkit="sd-scripts",
        danceopd=DanceOPDSection(toolkit="sd-scripts", teachers={"base": Teacher()}),
        model_type=None,
        values=values or {},
        flags=flags or {},
    )
    return build_arguments(parser or make_parser(), preset, ours)
