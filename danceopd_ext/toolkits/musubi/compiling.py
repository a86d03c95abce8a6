"""torch.compile with several LoRAs on one transformer."""

from __future__ import annotations

import argparse

#: graphs that torch keeps for one function where it is told nothing
USUAL_LIMIT = 8


def allow_voices(args: argparse.Namespace, teachers: int) -> None:
    """Let musubi compile a graph for each voice (base, teachers, the student looking and learning).

    torch would otherwise give up after its eighth graph and run the rest uncompiled.
    """
    if args.compile:
        import torch._dynamo

        wanted = USUAL_LIMIT * (teachers + 3)
        args.compile_cache_size_limit = max(args.compile_cache_size_limit or 0, wanted)
        config = torch._dynamo.config
        config.accumulated_cache_size_limit = max(config.accumulated_cache_size_limit, 8 * wanted)
