"""Names and notes that come from files do not command the terminal, whoever prints them."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from danceopd_ext.config.schema import Teacher
from danceopd_ext.lora.metadata import build_metadata
from danceopd_ext.toolkits.hosted.console import tell
from danceopd_ext.toolkits.metadata import describe_teacher
from tests.tiny.presets import write_preset
from tests.toolkits.runs import QUICK

CLEAR = "\x1b[2J\x1b[31m"


def shown(text: str) -> bool:
    return all(letter.isprintable() or letter in "\n\r" for letter in text)


def test_lines_beside_a_toolkits(capsys):
    tell(f"note: {CLEAR}red")
    assert capsys.readouterr().out == "note: \\x1b[2J\\x1b[31mred\n"


def test_what_a_fused_lora_says_of_its_teachers():
    teacher = Teacher(lora=f"folder/{CLEAR}style.safetensors")
    assert describe_teacher(teacher) == "\\x1b[2J\\x1b[31mstyle"
    said = build_metadata(
        title="x", architecture="a", base_model=f"{CLEAR}b", rank=1, teachers=[f"{CLEAR}c"], author=f"{CLEAR}me"
    )
    assert all(map(shown, said.values()))


@pytest.mark.parametrize("method", ["danceopd", "merge_average"])
def test_the_start_lines_and_notes_of_a_run(method, pipelines, loras, launch, tmp_path, capsys):
    odd = tmp_path / f"style{CLEAR}.safetensors"
    save_file(load_file(loras["sd3", 0]) | {f"lora_te1_{CLEAR}.alpha": torch.ones(1)}, odd)
    teachers = {"style": {"lora": str(odd), "ignore_text_encoder": True}}
    keys = QUICK if method == "danceopd" else {}
    launch(write_preset(tmp_path / "run", pipelines["sd3"], teachers, method=method, **keys))
    told = capsys.readouterr()
    assert "are ignored" in told.out and shown(told.out)
