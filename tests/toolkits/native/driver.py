"""Runs the trainer and kills or interrupts its own process at a given moment: `driver.py MOMENT PRESET [arguments]`.

MOMENT: `step:N` - when step N is about to be logged; `weights:N` - when the N-th LoRA is half written;
`rename:N` - before the N-th rename of a whole file; `state:N` - when the N-th state folder is half written;
`second:N` - as `step`, but of the second process. `interrupt:N` - Ctrl-C while step N is logged; `hangup:N` - SIGHUP;
`launcher:N` - its launcher is killed; `wait:N` - it prints "waiting" and waits for a line from stdin. `preview:N` -
nothing is killed; the N-th preview runs out of memory. Of several processes the first one acts. The last line of
stderr is the exit code.
"""

import os
import signal
import sys

import torch

torch.set_num_threads(1)

#: moments at which step N is logged -> the signal
SIGNALS = {"step": "SIGKILL", "second": "SIGKILL", "interrupt": "SIGINT", "hangup": "SIGHUP", "launcher": "SIGKILL"}


def die_at(count, module, name, before=None, signal=signal.SIGKILL, process=os.getpid):
    """Let the `count`-th call of `module.name` send the signal to a process, after `before(*arguments)`."""
    original, calls = getattr(module, name), [0]

    def patched(*arguments, **keywords):
        calls[0] += 1
        if calls[0] == count:
            if before:
                before(original, *arguments, **keywords)
            if signal is not None:
                os.kill(process(), signal)
        return original(*arguments, **keywords)

    setattr(module, name, patched)


def half(original, tensors, path, *arguments, **keywords):
    """Write the first half of the file that was to be written."""
    original(tensors, path, *arguments, **keywords)
    with open(path, "rb+") as file:
        file.truncate(os.path.getsize(path) // 2)


def wait(*_):
    print("waiting", flush=True)
    sys.stdin.readline()


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def act(kind, count):
    from danceopd_ext.lora import write
    from danceopd_ext.toolkits.native import journal, previews, state

    if kind in SIGNALS:
        process = os.getppid if kind == "launcher" else os.getpid
        die_at(count, journal.Journal, "record", signal=getattr(signal, SIGNALS[kind]), process=process)
    elif kind == "weights":
        die_at(count, write, "save_file", half)
    elif kind == "state":
        die_at(count, state, "save_file", half)
    elif kind == "wait":
        die_at(count, journal.Journal, "record", wait, signal=None)
    elif kind == "preview":
        die_at(count, previews.Previews, "draw", out_of_memory)
    elif kind == "rename":
        die_at(count, os, "replace")


def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background ignore it
    from danceopd_ext.cli import run
    from danceopd_ext.toolkits.run import main

    kind, _, count = sys.argv[1].partition(":")
    # the first of several processes starts the others only now, and they know their rank from it or from a launcher
    if os.environ.get("RANK", "0") == ("1" if kind == "second" else "0"):
        act(kind, int(count))
    code = run(main, ["--config", *sys.argv[2:]])
    print(f"exit code {code}", file=sys.stderr, flush=True)
    sys.exit(code)


main()
