"""Runs the method on the embedded demo, from a fresh clone: `python scripts/quickstart.py`.

Creates `.venv`, installs, makes the source images of the edits, trains one LoRA from three teachers and the base,
scores it against them and their plain merges, and leaves `outputs/quickstart/` with the LoRA, grid.png and
report.json. Needs no GPU and no model download; installs about 1.3 GB once, more if torch comes with CUDA, and then
takes about nine minutes on two cores. Other arguments are keys of presets/quickstart.toml, such as
--max_train_steps 100.
"""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import subprocess
import time

from environment import ROOT, ensure, run

PRESET = "presets/quickstart.toml"
#: samples per step, over all processes (as in the preset)
BATCH = 16


def free_port() -> int:
    """Return a free port on which the processes can connect."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processes_here() -> int:
    """Return two if there are two cores; one on Windows, where torch often cannot connect CPU processes."""
    return 2 if (os.cpu_count() or 1) > 1 and os.name != "nt" else 1


def in_words(command: list[str]) -> str:
    """Return the command as it can be typed."""
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


def launch_options(processes: int) -> list[str]:
    """Return accelerate's options, with one thread per process: threads wait for each other if a core is busy."""
    threads = 1 if processes > 1 else min(2, os.cpu_count() or 1)
    counts = ["--num_processes", str(processes), "--num_cpu_threads_per_process", str(threads), "--num_machines", "1"]
    return [
        "--cpu",
        *counts,
        "--main_process_port",
        str(free_port()),
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]


def main() -> None:
    """Install, train the embedded demo, and show where the result is."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    keys = parser.parse_known_args()[1]
    start = time.perf_counter()
    python, install = ensure("native")
    processes = processes_here()
    batch = ["--train_batch_size", str(BATCH // processes)]
    training = ["train_danceopd.py", "--config", PRESET, *batch, "--overwrite", *keys]  # it may be run again
    run([str(python), "-m", "danceopd_ext.demo.quickstart_data"])
    print("Training: accelerate launch " + in_words(["--num_processes", str(processes), *training]), flush=True)
    began = time.perf_counter()
    run([str(python), "-m", "accelerate.commands.launch", *launch_options(processes), *training])
    seconds = {"install": install, "train": time.perf_counter() - began, "before": time.perf_counter() - start}
    words = [f"{name}={value:.1f}" for name, value in seconds.items()]
    run([str(python), "-m", "danceopd_ext.demo.report", str(ROOT / "outputs" / "quickstart"), *words])


if __name__ == "__main__":
    main()
