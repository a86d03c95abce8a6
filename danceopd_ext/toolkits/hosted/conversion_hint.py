"""Says how to convert the LoRA that a toolkit saved, for a program that does not load it directly."""

from __future__ import annotations

from pathlib import Path

from danceopd_ext.config.toolkits import TOOLKITS
from danceopd_ext.toolkits.hosted.architecture import Architectures


def convert_line(toolkit: str, model_type: str | None, path: Path) -> str | None:
    """Return a line with the `convert` command for the program that needs it; None if all load the file directly."""
    architectures = Architectures(TOOLKITS[toolkit])
    need = architectures[model_type].needs_conversion if model_type in architectures else None
    if need is None or path.suffix != ".safetensors":
        return None
    program, dialect = need
    target = path.with_name(f"{path.stem}_{dialect}.safetensors")
    return f'for {program}: python -m danceopd_ext convert "{path}" "{target}" --to {dialect}'
