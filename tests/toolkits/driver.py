"""Runs the trainer and kills or interrupts its own process at a given moment: `driver.py MOMENT PRESET [arguments]`.

MOMENT: `step:N` - when step N is about to be logged; `weights:N` - when the N-th LoRA is half written;
`rename:N` - before the N-th rename of a whole file; `state:N` - when the N-th state folder is half written.
`interrupt:N` - Ctrl-C while step N is logged. `preview:N` - nothing is killed; the N-th preview runs out of memory.
"""

import os
import signal
import sys

import torch

torch.set_num_threads(1)


def die_at(count, module, name, before=None, signal=signal.SIGKILL):
    """Let the `count`-th call of `module.name` send the signal to this process, after `before(*arguments)`."""
    original, calls = getattr(module, name), [0]

    def patched(*arguments, **keywords):
        calls[0] += 1
        if calls[0] == count:
            if before:
                before(original, *arguments, **keywords)
            os.kill(os.getpid(), signal)
        return original(*arguments, **keywords)

    setattr(module, name, patched)


def half(original, tensors, path, *arguments, **keywords):
    """Write the first half of the file that was to be written."""
    original(tensors, path, *arguments, **keywords)
    with open(path, "rb+") as file:
        file.truncate(os.path.getsize(path) // 2)


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def main():
    from danceopd_ext.cli import run
    from danceopd_ext.lora import write
    from danceopd_ext.toolkits.native import journal, previews, state
    from danceopd_ext.toolkits.run import main

    kind, _, count = sys.argv[1].partition(":")
    if kind == "step":
        die_at(int(count), journal.Journal, "record")
    elif kind == "weights":
        die_at(int(count), write, "save_file", half)
    elif kind == "state":
        die_at(int(count), state, "save_file", half)
    elif kind == "interrupt":
        die_at(int(count), journal.Journal, "record", signal=signal.SIGINT)
    elif kind == "preview":
        die_at(int(count), previews.Previews, "draw", out_of_memory)
    elif kind == "rename":
        die_at(int(count), os, "replace")
    sys.exit(run(main, ["--config", *sys.argv[2:]]))


main()
