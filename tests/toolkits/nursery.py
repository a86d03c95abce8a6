"""Runs scripts in processes that have imported everything already: `python -m tests.toolkits.nursery`.

Reads one JSON request per line: a list of processes, each {"words", "variables", "folder", "out", "error"}. They run at
the same time, each in a fork of this process, which itself only imports. Answers with one line: their exit codes.
"""

from __future__ import annotations

import json
import os
import runpy
import sys


def prepare() -> None:
    """Import what a training imports, and start nothing: a fork of a process with threads could hang."""
    import diffusers
    import transformers

    _ = diffusers.StableDiffusion3Pipeline, transformers.CLIPTextModelWithProjection, transformers.T5EncoderModel


def main() -> None:
    prepare()
    for line in sys.stdin:
        children = []
        for request in json.loads(line):
            child = os.fork()
            if child == 0:
                become(request)
                return
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


def become(request: dict) -> None:
    """Run the script as an interpreter of its own would; leaves by SystemExit."""
    os.environ.update(request["variables"])
    os.chdir(request["folder"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in ((1, "out"), (2, "error")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = request["words"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
