"""Compiles the repeated blocks of a transformer with torch.compile, and counts the compilations.

Each block's forward is compiled, and blocks of one kind share what was compiled. torch looks up a variant by what a
forward depends on: the active adapter, whether gradients are needed, and whether there is one sample or more. So every
adapter gets a variant of its own the first time it is asked, and switching back finds it again. Sizes are dynamic.
Hooks stay outside of what is compiled, so blocks can be swapped as well.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import torch

from danceopd_ext.errors import UserError

#: variants of one forward: with and without gradients, one sample and more, and some for widths that differ
VARIANTS_OF_AN_ADAPTER = 16
#: executables that compile C++, in the order in which torch tries them
COMPILERS = ("g++", "clang++", "cl") if sys.platform == "win32" else ("g++", "clang++", "c++")


class Compilations:
    """The compiled blocks of a run. `count`: how often something was compiled until now."""

    def __init__(self, blocks: Sequence[torch.nn.Module], adapters: int, backend: str = "inductor") -> None:
        """adapters: how many the blocks have; the base alone is one more. backend: a name that torch.compile knows."""
        self.count = 0
        self._compile = torch._dynamo.lookup_backend(backend)
        kinds = len({type(block) for block in blocks})
        needed = (adapters + 1) * VARIANTS_OF_AN_ADAPTER * kinds
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, needed)
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, needed)
        for block in blocks:
            block.forward = torch.compile(block.forward, backend=self._counted, dynamic=True)

    def _counted(self, *graph: Any, **options: Any) -> Any:
        self.count += 1
        return self._compile(*graph, **options)


def check_compiler(device: torch.device) -> None:
    """Raise UserError if torch.compile cannot work on this machine, with the line that mends it."""
    off = "or remove torch_compile"
    if device.type == "cuda" and not importlib.util.find_spec("triton"):
        package = "triton-windows" if sys.platform == "win32" else "triton"
        raise UserError(
            f"torch_compile = true needs Triton, which is not installed: python -m pip install -U {package}, {off}."
        )
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))):
        raise UserError(
            "torch_compile = true needs a C++ compiler on a CPU, and none was found: install one (Linux: g++; macOS: "
            f"xcode-select --install; Windows: the C++ build tools of Visual Studio, in whose prompt you start), {off}."
        )
