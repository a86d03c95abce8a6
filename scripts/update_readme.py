"""Writes the generated parts of the pages: `python scripts/update_readme.py`.

The tables of preset keys in presets/README.md come from the schema, the table of the files that creators have in
danceopd_ext/models/README.md from the families; the quickstart's table in scripts/README.md comes
from outputs/quickstart/report.json, if that is there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from danceopd_ext.config.explain import explain
from danceopd_ext.models.part_table import part_table

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "outputs" / "quickstart" / "report.json"


def fill(page: str, part: str, content: str) -> None:
    """Replace the text of a page between `<!-- part... -->` and `<!-- /part -->`."""
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {part}[^>]*-->\n).*?(<!-- /{part} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{page} has no part {part}")
    text = pattern.sub(lambda found: found[1] + content.rstrip("\n") + "\n" + found[2], text)
    path.write_text(text, encoding="utf-8", newline="\n")


def quickstart_table(report: dict) -> str:
    """Return the scores as Markdown; the owner of a skill is bold."""
    names = [name for name in next(iter(report["scores"].values())) if name != "merge"]
    lines = ["| skill | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for skill, row in report["scores"].items():
        owner = report["owners"][skill]
        cells = (f"**{row[name]:.2f}**" if name == owner else f"{row[name]:.2f}" for name in names)
        lines.append(f"| {skill} | " + " | ".join(cells) + " |")
    worst = (f"{min(row[name] for row in report['scores'].values()):.2f}" for name in names)
    lines.append("| worst | " + " | ".join(worst) + " |")
    seconds, count = report["seconds"], min(report["images_per_score"].values())
    cost = f"{seconds['train']:.0f} s of training on {report['versions']['cores']} CPU cores, "
    cost += f"{report['peak_memory_mb']:.0f} MiB in each of two processes; "
    cost += f"at least {count} pictures a score. Bold: who owns the skill."
    return "\n".join([*lines, "", cost])


def main() -> None:
    """Fill the generated parts of the pages."""
    fill("presets/README.md", "keys", explain())
    fill("danceopd_ext/models/README.md", "part files", part_table())
    if REPORT.is_file():
        fill("scripts/README.md", "quickstart", quickstart_table(json.loads(REPORT.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
