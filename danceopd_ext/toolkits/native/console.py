"""Handles the console events of Windows: the console is closed, the user logs off, the machine shuts down.

Python handles Ctrl-C and Ctrl-Break only. Windows reports the other events to a handler in a thread of its own, and
ends the process when the handler returns, or after about 5 seconds.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

#: CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT
ENDS = (2, 5, 6)


def watch_console(ends: Callable[[], None]) -> Callable[[], None]:
    """Call `ends` when Windows is about to end the process. Returns a function that undoes this. A no-op elsewhere."""
    if os.name != "nt":
        return lambda: None

    def handler(event: int) -> bool:
        if event not in ENDS:
            return False  # let Python's own handler run
        ends()
        return True

    called = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint)(handler)
    kernel = ctypes.windll.kernel32
    kernel.SetConsoleCtrlHandler(called, 1)
    return lambda: kernel.SetConsoleCtrlHandler(called, 0) and None
