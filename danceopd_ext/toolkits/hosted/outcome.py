"""What a user has to do with the LoRA that a toolkit saved, by the program that will load it."""

from __future__ import annotations

from pathlib import Path

#: (toolkit, model_type) -> program and the dialect it needs, where it does not load the file as the toolkit saves it
NEEDS: dict[tuple[str, str], tuple[str, str]] = {
    ("musubi-tuner", "z_image"): ("ComfyUI", "comfyui"),
    ("sd-scripts", "sd3"): ("diffusers", "diffusers"),
}


def convert_line(toolkit: str, model_type: str | None, path: Path) -> str | None:
    """A line with the `convert` command for the program that needs it; None: all load the file as it is."""
    need = NEEDS.get((toolkit, model_type or ""))
    if need is None or path.suffix != ".safetensors":
        return None
    program, dialect = need
    target = path.with_name(f"{path.stem}_{dialect}.safetensors")
    return f'for {program}: python -m danceopd_ext convert "{path}" "{target}" --to {dialect}'
