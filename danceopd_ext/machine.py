"""What the program runs on, for logs and reports."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

import torch

PACKAGES = ("danceopd_ext", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")


def peak_memory_mb(device: torch.device | None = None) -> float:
    """The most memory used so far, in MiB: of the GPU if that is what `device` is, else of this process."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if os.name == "nt":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def versions() -> dict[str, str]:
    """Python, platform, processor count, and the packages that decide the numbers."""
    system = f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}"
    found = {"python": platform.python_version(), "platform": system, "cores": str(os.cpu_count())}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
