"""Writes the table of the files that each family can be given (`python scripts/update_readme.py`)."""

from __future__ import annotations

from danceopd_ext.models.registry import FAMILIES


def part_table() -> str:
    """Return the Markdown table of families, preset keys and places in ComfyUI's folder."""
    rows: dict[str, list[str]] = {}
    for family in FAMILIES.values():
        files = {("pretrained_model_name_or_path",): (family.comfyui_file,)} if family.comfyui_file else {}
        files |= {spec.keys: spec.comfyui for spec in family.part_files}
        for keys, places in files.items():
            cells = " or ".join(f"`{key}`" for key in keys)
            row = f"{cells} | {', '.join(f'`{place}`' for place in places)} |"
            rows.setdefault(row, []).append(f"`{family.name}`")
    lines = ["| model_type | key | file in ComfyUI's folder |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {', '.join(names)} | {row}" for row, names in rows.items())]) + "\n"
