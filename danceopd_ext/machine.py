"""Describes the machine, and explains why torch cannot use its GPU."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("danceopd_ext", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")


def peak_memory_mb(device: torch.device | None = None) -> float:
    """Return the peak memory so far, in MiB: of the GPU if `device` is one, else of this process."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if os.name == "nt":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def versions() -> dict[str, str]:
    """Return the versions of Python, platform and packages that affect results, and the number of processors."""
    system = f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}"
    found = {"python": platform.python_version(), "platform": system, "cores": str(os.cpu_count())}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def installed(package: str) -> bool:
    """Return whether the package can be imported; a mere folder of this name, such as W&B creates, does not count."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return importlib.util.find_spec(package) is not None


def has_nvidia_card() -> bool:
    """Return whether this machine has an NVIDIA card and driver, even if torch cannot use it."""
    tool = shutil.which("nvidia-smi")
    if tool:
        with suppress(OSError, subprocess.SubprocessError):
            return "GPU " in subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20).stdout
    system = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll"
    return system.exists() if os.name == "nt" else Path("/proc/driver/nvidia/version").exists()


def cuda_install_line() -> str:
    """Return the command that replaces this torch with the same version for CUDA."""
    version = torch.__version__.partition("+")[0]
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    tag = "cu130" if numbers >= (2, 9) else "cu126"  # the index that pytorch.org names for these versions
    return f'pip install "torch=={version}+{tag}" --index-url https://download.pytorch.org/whl/{tag}'


def why_no_gpu() -> str:
    """Return why torch has no CUDA GPU here, and the remedy; empty if the machine has no NVIDIA card."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return "accelerate is set to use the CPU: remove --cpu, or run `accelerate config` again."
    if not has_nvidia_card():
        return ""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides the NVIDIA card: remove it from the environment."
    if torch.version.cuda is None:
        return (
            f"This machine has an NVIDIA card, but torch {torch.__version__} is a build without CUDA. Replace it: "
            f"{cuda_install_line()} (pytorch.org lists the indexes for other drivers)."
        )
    return (
        f"This machine has an NVIDIA card, but torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use it: "
        "update the NVIDIA driver."
    )
