"""Makes the training data of the route `edit` in presets/quickstart.toml: instructions with their source images.

Run as `python -m danceopd_ext.demo.quickstart_data`, in the project's folder; `scripts/quickstart.py` does.
"""

from __future__ import annotations

from pathlib import Path

from danceopd_ext.demo.route_files import write_route

FOLDER = Path("outputs/quickstart/data")
PER_KIND = 100


def main(folder: Path = FOLDER) -> Path:
    """The prompt file, made where it is not there yet. No targets: a route of danceopd needs none."""
    return write_route(folder, "edit", PER_KIND, targets=False)


if __name__ == "__main__":
    print(f"Data of the route edit: {main()}")
