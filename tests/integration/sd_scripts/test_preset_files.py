"""The shipped presets for sd-scripts, against the toolkit's own parser."""

import re
from pathlib import Path

import pytest

from danceopd_ext.config.hosted_preset import split_preset
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.architecture import find_architecture
from danceopd_ext.toolkits.hosted.argument_rules import refuse
from danceopd_ext.toolkits.hosted.arguments import build_arguments
from danceopd_ext.toolkits.hosted.checkout import find_toolkit
from danceopd_ext.toolkits.hosted.import_script import import_script
from danceopd_ext.toolkits.hosted.seams import check_seams
from danceopd_ext.toolkits.sd_scripts.argument_rules import RULES
from danceopd_ext.toolkits.sd_scripts.registry import ARCHITECTURES
from danceopd_ext.toolkits.sd_scripts.run import take_sizes, trainer_arguments
from danceopd_ext.toolkits.sd_scripts.seams import seams_of
from tests.integration.sd_scripts.checkout import has

PRESETS = [
    path
    for path in sorted((Path(__file__).resolve().parents[3] / "presets").glob("sd_scripts_*.toml"))
    if all(has(name) for name in ("anima", "hunyuan_image") if name in path.stem)
]


def arguments_of(text: str, folder: Path):
    """What a run would train with; the files that a preset names are there, and empty."""
    path = folder / "preset.toml"
    path.write_text(text, encoding="utf-8")
    preset = split_preset(path)
    architecture = find_architecture(preset)
    for name in architecture.files:
        if name in preset.values:
            file = folder / preset.values[name]
            file.parent.mkdir(exist_ok=True)
            file.touch()
    checkout = find_toolkit("sd-scripts", None)
    script = import_script(checkout, [checkout.folder], architecture.script)
    check_seams(getattr(script, architecture.trainer), seams_of(architecture), checkout)
    preset, sizes = take_sizes(preset)
    arguments = build_arguments(script.setup_parser(), preset)
    refuse(arguments, RULES)
    return trainer_arguments(arguments, architecture), sizes


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_toolkits_parser_takes_every_key_and_also_those_in_comments(path, tmp_path):
    text = path.read_text(encoding="utf-8").replace('# toolkit_dir = "../sd-scripts"', "")
    shown = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    assert shown != text
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "samples.txt").touch()
    for written in (text, shown):
        args, sizes = arguments_of(written, tmp_path)
        side = 2048 if "hunyuan_image" in path.stem else 1024
        assert sizes == ((side, side),)
        assert args.mixed_precision == "bf16"
        assert args.gradient_checkpointing
        assert args.cache_text_encoder_outputs
        assert args.network_train_unet_only
    assert args.sample_every_n_steps


def test_every_file_of_an_architecture_is_asked_for(tmp_path):
    """Every row of the registry knows its toolkit's parser and what it needs."""
    for architecture in ARCHITECTURES.values():
        if architecture.model_type != "chroma" and not has(architecture.model_type):
            continue
        text = f'[model]\nmodel_type = "{architecture.model_type}"\n[danceopd]\ntoolkit = "sd-scripts"\n'
        text += "[danceopd.teachers.base]\n[danceopd.prompts]\nbase = 'prompts.txt'\n"
        files = {name: f"{name}.safetensors" for name in architecture.required}
        for missing in architecture.required:
            given = "".join(f'{name} = "{file}"\n' for name, file in files.items() if name != missing)
            with pytest.raises(UserError, match=f"{missing} is missing"):
                arguments_of(text.replace("[danceopd]", f"{given}[danceopd]", 1), tmp_path)
        given = "".join(f'{name} = "{file}"\n' for name, file in files.items())
        args, _ = arguments_of(text.replace("[danceopd]", f"{given}[danceopd]", 1), tmp_path)
        assert args.network_module == architecture.network_module
        assert all(getattr(args, name) == value for name, value in architecture.fixed.items())


def test_chroma_cannot_be_given_a_guidance(tmp_path):
    [path] = [path for path in PRESETS if "chroma" in path.stem]
    text = path.read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"guidance_scale = 3\.5: Chroma always runs with 0"):
        arguments_of(text.replace("sdpa = true", "sdpa = true\nguidance_scale = 3.5"), tmp_path)
