"""Measures memory and time to read a LoRA of real size: `python scripts/lora_memory.py`.

Makes files of the layers of a 6 B transformer (3,840 wide, 34 blocks of 7 linear layers) with random values in
bfloat16, one of each kind, and reads and inspects each in its own process. Memory is the process's peak minus the
imports, as a multiple of the file's size. The first process stays small, because Linux adds its memory to the peak of
the processes that it starts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from danceopd_ext.subprocesses import environment

BLOCKS = 34
WIDTH, HIDDEN = 3840, 10240
LAYERS = {
    **{f"attention.{part}": (WIDTH, WIDTH) for part in ("to_q", "to_k", "to_v", "to_out.0")},
    **{f"feed_forward.{part}": (HIDDEN, WIDTH) for part in ("w1", "w3")},
    "feed_forward.w2": (WIDTH, HIDDEN),
}
KINDS = ("lokr_full", "lokr_fused", "loha_32", "lora_32", "dora_32")


def parts_of(kind: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one layer's tensors."""
    if kind.startswith("lokr"):
        return {"lokr_w1": (8, 8), "lokr_w2": (outputs // 8, inputs // 8), "alpha": ()}
    if kind.startswith("loha"):
        ends = {"a": (outputs, 32), "b": (32, inputs)}
        return {f"hada_w{number}_{end}": shape for number in (1, 2) for end, shape in ends.items()} | {"alpha": ()}
    plain = {"lora_A.weight": (32, inputs), "lora_B.weight": (outputs, 32)}
    return plain | ({"dora_scale": (1, inputs)} if kind.startswith("dora") else {})


def layers_of(kind: str) -> dict[str, tuple[int, int]]:
    """Return the layers of a block, name -> (outputs, inputs), that a LoRA of this kind changes."""
    if kind != "lokr_fused":
        return LAYERS
    rest = {name: size for name, size in LAYERS.items() if name[-2:] not in ("_q", "_k", "_v")}
    return {"attention.qkv": (3 * WIDTH, WIDTH), **rest}


def write(kind: str, path: Path) -> None:
    """Write a random LoRA of this kind for a Z-Image of full size."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    names = ("noise_refiner.0", "noise_refiner.1", "context_refiner.0", "context_refiner.1")
    blocks = (*names, *(f"layers.{number}" for number in range(BLOCKS - len(names))))
    tensors = {}
    for block in blocks:
        for layer, (outputs, inputs) in layers_of(kind).items():
            for part, shape in parts_of(kind, outputs, inputs).items():
                value = torch.randn(shape, generator=generator) * 0.02 if shape else torch.tensor(32.0)
                tensors[f"diffusion_model.{block}.{layer}.{part}"] = value.to(torch.bfloat16)
    save_file(tensors, path)


def measure(what: str, path: Path) -> dict[str, float]:
    """Read or inspect in this process; return its peak memory above the imports, in MiB, and seconds."""
    from danceopd_ext.lora.file_summary import describe
    from danceopd_ext.lora.lora_file import open_lora_file
    from danceopd_ext.lora.read import read_lora
    from danceopd_ext.machine import peak_memory_mb
    from danceopd_ext.models.registry import NAMES

    layouts = {"z_image": NAMES["z_image"].reference_layout()}
    before, began = peak_memory_mb(), time.perf_counter()
    kept = read_lora(path, layouts["z_image"]) if what == "read" else describe(open_lora_file(path), layouts)
    seconds = time.perf_counter() - began
    if what == "inspect" and dict(kept).get("usable") != "yes":
        raise SystemExit(f"{path}: {dict(kept).get('usable')}")
    return {"mib": peak_memory_mb() - before, "seconds": seconds}


def _run(*arguments: object) -> str:
    """Run this program in its own process; return what it prints."""
    command = [sys.executable, "-m", "danceopd_ext.benchmark.lora_memory", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8", env=environment()).stdout


def main(words: Sequence[str]) -> None:
    """Measure each kind and print the table; `--write` and `--measure` run in their own processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--write", nargs=2, metavar=("KIND", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.write:
        return write(arguments.write[0], Path(arguments.write[1]))
    if arguments.measure:
        return print(json.dumps(measure(arguments.measure[0], Path(arguments.measure[1]))))
    print(f"{'kind':<12} {'file MiB':>9} {'':>9} {'peak MiB':>9} {'x file':>7} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for kind in arguments.kinds:
            path = Path(folder) / f"{kind}.safetensors"
            _run("--write", kind, path)
            size = path.stat().st_size / 2**20
            for what in ("read", "inspect"):
                found = json.loads(_run("--measure", what, path))
                row = f"{found['mib']:>9.0f} {found['mib'] / size:>7.2f} {found['seconds']:>8.1f}"
                print(f"{kind:<12} {size:>9.0f} {what:>9} {row}", flush=True)
            path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
