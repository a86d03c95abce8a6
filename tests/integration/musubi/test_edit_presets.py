"""The shipped presets for FLUX.1 Kontext, FLUX.2, Qwen-Image and Qwen-Image-Edit, against musubi's own parser."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path

import pytest

from danceopd_ext.config.hosted_preset import split_preset
from danceopd_ext.toolkits.hosted.architecture import find_architecture
from danceopd_ext.toolkits.hosted.argument_rules import refuse
from danceopd_ext.toolkits.hosted.arguments import build_arguments
from danceopd_ext.toolkits.hosted.checkout import find_toolkit
from danceopd_ext.toolkits.hosted.seams import check_seams
from danceopd_ext.toolkits.musubi.argument_rules import RULES
from danceopd_ext.toolkits.musubi.registry import ARCHITECTURES
from danceopd_ext.toolkits.musubi.run import OURS, complete, import_trainer, parser_of, settings_of
from danceopd_ext.toolkits.musubi.seams import SEAMS

FOLDER = Path(__file__).resolve().parents[3] / "presets"


def arguments_of(preset):
    """What a run would train with."""
    architecture = find_architecture(preset)
    checkout = find_toolkit(preset.toolkit, None)
    module = import_trainer(checkout, architecture)
    check_seams(getattr(module, architecture.trainer), SEAMS, checkout)
    arguments = build_arguments(parser_of(module, architecture), preset, OURS)
    refuse(arguments, RULES)
    complete(arguments.namespace, architecture)
    return arguments, settings_of(preset, arguments, architecture)


EDITS = ["musubi_flux_kontext_fuse_edits", "musubi_qwen_image_edit_fuse"]


@pytest.mark.parametrize("name", [*EDITS, "musubi_flux_2_fuse_loras", "musubi_qwen_image_fuse_loras"])
def test_musubis_parser_takes_every_key_and_also_those_in_comments(name, tmp_path):
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    head, _, body = text.partition("\n[model]")
    if name in EDITS:
        assert "[[datasets]]\n" in head  # the example of a dataset file stays a comment
    shown = re.sub(r"^# (\[|\w+ = )", r"\1", body, flags=re.MULTILINE)
    assert shown != body
    for written in (body, shown):
        path = tmp_path / "preset.toml"
        path.write_text("[model]" + written, encoding="utf-8")
        arguments, settings = arguments_of(split_preset(path))
        args = arguments.namespace
        assert args.fp8_base and args.fp8_scaled and args.gradient_checkpointing and args.sdpa
        assert args.network_module == settings.architecture.network_module
        assert args.vae_dtype == ("float32" if "flux_2" in name else "bfloat16")
        assert settings.flow_shift is None
    assert args.sample_prompts and args.vae


@pytest.mark.parametrize("model_type", ["flux_kontext", "flux_2", "qwen_image", "qwen_image_edit"])
def test_every_trainer_of_the_checkout_has_our_seams(model_type):
    architecture = ARCHITECTURES[model_type]
    checkout = find_toolkit("musubi-tuner", None)
    check_seams(getattr(import_trainer(checkout, architecture), architecture.trainer), SEAMS, checkout)


class Parsed(Exception):
    """The caching script has read its arguments, which is all that is wanted of it."""


@pytest.mark.parametrize("path", sorted(FOLDER.glob("musubi_*.toml")), ids=lambda path: path.stem)
def test_musubis_caching_scripts_take_the_commands_of_the_preset(path, monkeypatch):
    text = path.read_text(encoding="utf-8")
    commands = re.findall(r"^#     python src/musubi_tuner/(\w+)\.py (.*)$", text, re.MULTILINE)
    assert len(commands) == 2
    parse = argparse.ArgumentParser.parse_args

    def parsed(parser, *given):
        raise Parsed(parse(parser, *given))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    for script, words in commands:
        monkeypatch.setattr(sys, "argv", [script, *words.split()])
        with pytest.raises(Parsed) as done:
            importlib.import_module(f"musubi_tuner.{script}").main()
        (args,) = done.value.args
        assert args.dataset_config in ("edits.toml", "pictures.toml")
