"""Lines for the user, beside the toolkit's own."""

from __future__ import annotations

import os


def tell(line: str) -> None:
    """Print once, whatever the number of processes."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)
