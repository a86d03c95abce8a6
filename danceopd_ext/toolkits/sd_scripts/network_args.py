"""Checks `network_args`: the toolkit's network module ignores keys that it does not know."""

from __future__ import annotations

import importlib
import inspect
import re
from argparse import Namespace
from pathlib import Path

from danceopd_ext.errors import UserError, nearest


def check_network_args(args: Namespace, preset: Path) -> None:
    """Raise UserError for an entry that is not key=value, or whose key the network module does not read."""
    known = keys_of(args.network_module)
    for entry in args.network_args or []:
        key, equals, value = entry.partition("=")
        where = f'{preset}: network_args: "{entry}"'
        if not equals or not value:
            raise UserError(f"{where}: write key=value.")
        if known and key not in known:
            raise UserError(f"{where}: {args.network_module} does not read {key}.{nearest(key, known)}")


def keys_of(module: str) -> set[str]:
    """Return the keys that a network module looks up in its keyword arguments; none if its source cannot be read."""
    try:
        source = inspect.getsource(importlib.import_module(module))
    except (OSError, TypeError):
        return set()
    return set(re.findall(r"""kwargs(?:\.get\(|\[)\s*["'](\w+)["']""", source))
