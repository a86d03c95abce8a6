"""Keeps training going when TensorBoard or W&B fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from danceopd_ext.disk_errors import disk_problem
from danceopd_ext.errors import printable, shorten

#: the tracker methods that trainers call while they train and at the end
METHODS = ("log", "log_images", "finish")


def guard_trackers(accelerator: Any, say: Callable[[str], None]) -> None:
    """Turn an error of an accelerator's tracker into one message, after which the tracker receives nothing more."""
    for tracker in getattr(accelerator, "trackers", []):
        _guard(tracker, say)
        _quieten_writers()


def _guard(tracker: Any, say: Callable[[str], None]) -> None:
    failed = False

    def guarded(call: Callable) -> Callable:
        def called(*given: Any, **named: Any) -> Any:
            nonlocal failed
            if failed:
                return None
            try:
                return call(*given, **named)
            except Exception as error:  # W&B raises its own errors, by version
                failed = True
                problem = disk_problem(error)
                lines = printable(str(error)).strip().splitlines() or [type(error).__name__]
                reason = problem.reason if problem else shorten(lines[0], 200)
                say(
                    f"{tracker.name} is turned off for the rest of the run: {reason}. Training goes on; the JSONL "
                    "log is complete."
                )
                return None

        return called

    for name in METHODS:
        if hasattr(tracker, name):
            setattr(tracker, name, guarded(getattr(tracker, name)))


def _quieten_writers() -> None:
    """TensorBoard writes in a thread of its own and raises its error again in the next call: report it once."""
    before = threading.excepthook
    if getattr(before, "quiet", False):
        return

    def hook(told: threading.ExceptHookArgs) -> None:
        if not (disk_problem(told.exc_value) and type(told.thread).__module__.startswith("tensorboard")):
            before(told)

    hook.quiet = True
    threading.excepthook = hook
