"""The method on the embedded demo, from a fresh clone: `python scripts/quickstart.py`.

Makes `.venv`, installs, trains one LoRA from two teachers and the base, scores it beside them and beside their plain
merges, and leaves `outputs/quickstart/` with the LoRA, grid.png and report.json. Needs no GPU and no model download.
"""

from __future__ import annotations

import os
import shlex
import sys
import time

from environment import ROOT, ensure, run

PRESET = "presets/quickstart.toml"


def main() -> None:
    start = time.perf_counter()
    python, install = ensure("native")
    cores = str(max(os.cpu_count() or 1, 1))
    launch = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--num_cpu_threads_per_process", cores]
    training = ["train_danceopd.py", "--config", PRESET, *sys.argv[1:]]
    print("Training: accelerate launch " + shlex.join(training), flush=True)
    began = time.perf_counter()
    run([str(python), "-m", "accelerate.commands.launch", *launch, *training])
    train = time.perf_counter() - began
    seconds = [f"install={install:.1f}", f"train={train:.1f}", f"before={time.perf_counter() - start:.1f}"]
    run([str(python), "-m", "danceopd_ext.demo.report", str(ROOT / "outputs" / "quickstart"), *seconds])


if __name__ == "__main__":
    main()
