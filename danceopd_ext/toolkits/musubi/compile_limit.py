"""Raises the limits of torch.compile for several LoRAs on one transformer."""

from __future__ import annotations

import argparse

#: graphs that torch keeps for one function by default
USUAL_LIMIT = 8


def allow_graphs(args: argparse.Namespace, teachers: int) -> None:
    """Let musubi compile a graph for each adapter (base, teachers, the student in inference and in training).

    Otherwise torch stops after the eighth graph and runs the rest uncompiled.
    """
    if args.compile:
        import torch._dynamo

        wanted = USUAL_LIMIT * (teachers + 3)
        args.compile_cache_size_limit = max(args.compile_cache_size_limit or 0, wanted)
        config = torch._dynamo.config
        config.accumulated_cache_size_limit = max(config.accumulated_cache_size_limit, 8 * wanted)
