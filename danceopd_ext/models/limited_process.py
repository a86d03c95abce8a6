"""Runs the chat templates and tokenizers of a model folder within limits of time and memory.

Both are programs that come with the model: a template can loop for years, and a tokenizer can make gigabytes of one
word. So templates are rendered, and texts are split for the first time, in a separate process
(limited_process_child.py), which is ended at the limit. A rendered chat is used as that process returns it; a text
that it could split is split again here.
"""

from __future__ import annotations

import atexit
import inspect
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from danceopd_ext.errors import UserError, shorten

#: seconds for one template or text, and for the start of the process
LONGEST, START = 20.0, 120.0
#: bytes of memory of the process; a real tokenizer takes 0.3 GB
MEMORY = 4 * 2**30
#: arguments of apply_chat_template that a template sees
SEEN = ("tools", "documents", "add_generation_prompt")
#: the text of a chat that was rendered already
RENDERED = "{{ messages[0]['content'] }}"
REMEDY = "Use the file from the original model."


def limit_tokenizers(pipeline: Any, folder: Path) -> None:
    """Apply the limits to the pipeline's tokenizers and processors from now on.

    folder: the model's. They then raise UserError, which names their folder.
    """
    for name, part in pipeline.components.items():
        where, inner = folder / name, getattr(part, "tokenizer", None)  # a processor has its tokenizer inside
        if hasattr(part, "apply_chat_template"):
            part.__class__ = _limited(type(part), where, splits=inner is None)
        if inner is not None and hasattr(inner, "apply_chat_template"):
            inner.__class__ = _limited(type(inner), where, splits=True)


def load_tokenizers(folder: Path) -> None:
    """Read every tokenizer.json of the model. Raises UserError if one needs too much time or memory."""
    for file in sorted(folder.glob("*/tokenizer.json")):
        split(file, ["a word"])


def render(template: str, variables: Mapping[str, Any], where: Path) -> str:
    """Return the text of a rendered template.

    Raises UserError, which begins with `where`, if it fails or never ends.
    """
    return _answer({"template": template, "variables": variables}, f"{where}: its chat template")["text"]


def split(file: Path, texts: Sequence[str]) -> None:
    """Split texts with a tokenizer.json. Raises UserError if the file or a text needs too much time or memory."""
    _answer({"tokenizer": str(file.absolute()), "texts": list(texts)}, f"{file}: this tokenizer")


def _limited(cls: type, where: Path, splits: bool) -> type:
    """Return a subclass of a tokenizer or processor that checks first.

    where: its folder. splits: whether it splits texts.
    """
    file = where / "tokenizer.json"

    def __call__(self: Any, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        if splits and file.is_file() and (texts := _texts(text)):
            split(file, texts)
        return cls.__call__(self, text, *args, **kwargs)

    def apply_chat_template(self: Any, conversation: Any, **kwargs: Any) -> Any:
        several = bool(conversation) and isinstance(conversation[0], list)
        chats = [_rendered(self, chat, kwargs, where) for chat in (conversation if several else [conversation])]
        return cls.apply_chat_template(self, chats if several else chats[0], **{**kwargs, "chat_template": RENDERED})

    methods = {"__call__": __call__, "apply_chat_template": apply_chat_template, "__module__": cls.__module__}
    return type(cls.__name__, (cls,), methods)


def _rendered(tokenizer: Any, chat: Any, kwargs: Mapping[str, Any], where: Path) -> list[dict[str, str]]:
    """Return a chat of one message that is the rendered text of this chat."""
    template = kwargs.get("chat_template") or tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not isinstance(template, str):
        raise UserError(f"{where} has no chat template, which the model needs for its prompts. {REMEDY}")
    own = getattr(getattr(tokenizer, "tokenizer", tokenizer), "special_tokens_map", {})
    seen = {name: value for name, value in kwargs.items() if name in SEEN or name not in _parameters()}
    variables = {"tools": None, "documents": None, "add_generation_prompt": False, **own, **seen, "messages": chat}
    return [{"role": "user", "content": render(template, variables, where)}]


@lru_cache(maxsize=1)
def _parameters() -> frozenset[str]:
    """Return the parameters of apply_chat_template itself; all others are for the template."""
    from transformers import PreTrainedTokenizerBase  # here: it takes seconds to import

    return frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)


def _texts(text: Any) -> list[str]:
    """Return the texts in a tokenizer's input: one, or lists of texts."""
    if isinstance(text, str):
        return [text]
    return [one for part in text for one in _texts(part)] if isinstance(text, (list, tuple)) else []


def _answer(request: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return the answer of the other process. Raises UserError, which begins with `what`."""
    answer = _process().ask(json.dumps(request, default=lambda other: f"<{type(other).__name__}>"))
    if answer is None:
        raise UserError(
            f"{what} needs more than {LONGEST:g} seconds or {MEMORY / 2**30:g} GiB of memory for one text. {REMEDY}"
        )
    if answer.get("memory"):
        raise UserError(f"{what} needs more than {MEMORY / 2**30:g} GiB of memory for one text. {REMEDY}")
    if "error" in answer:
        raise UserError(f"{what} cannot be used ({shorten(answer['error'], 300)}). {REMEDY}")
    return answer


class _LimitedProcess:
    """The other process, and a thread that waits for its answers; None is the answer of a process that has ended."""

    def __init__(self) -> None:
        root = Path(__file__).resolve().parents[2]
        paths = [str(root), *(entry for entry in sys.path if entry)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "RAYON_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "danceopd_ext.models.limited_process_child", str(MEMORY)], cwd=root, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8",
        )  # fmt: skip
        self.answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.patience = START

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put(None)

    def ask(self, request: str) -> dict[str, Any] | None:
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
            line = self.answers.get(timeout=self.patience + LONGEST)
        except (OSError, queue.Empty):
            line = None
        self.patience = 0.0
        if line is None:
            self.end()
        return None if line is None else json.loads(line)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


_running: list[_LimitedProcess] = []


def _process() -> _LimitedProcess:
    """Return the running process; start another if it was ended."""
    if not _running or _running[-1].process.poll() is not None:
        _running[:] = [_LimitedProcess()]
        atexit.register(_running[-1].end)
    return _running[-1]
