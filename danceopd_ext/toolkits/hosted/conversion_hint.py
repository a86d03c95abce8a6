"""What a user has to do with the LoRA that a toolkit saved, by the program that will load it."""

from __future__ import annotations

from pathlib import Path

from danceopd_ext.config.toolkits import TOOLKITS
from danceopd_ext.toolkits.hosted.architecture import Architectures


def convert_line(toolkit: str, model_type: str | None, path: Path) -> str | None:
    """A line with the `convert` command for the program that needs it; None: all load the file as it is."""
    architectures = Architectures(TOOLKITS[toolkit])
    need = architectures[model_type].needs_conversion if model_type in architectures else None
    if need is None or path.suffix != ".safetensors":
        return None
    program, dialect = need
    target = path.with_name(f"{path.stem}_{dialect}.safetensors")
    return f'for {program}: python -m danceopd_ext convert "{path}" "{target}" --to {dialect}'
