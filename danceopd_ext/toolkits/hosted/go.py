"""Run a toolkit's own `train(args)`, with what belongs around it."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

from danceopd_ext.errors import TrainingError, UserError
from danceopd_ext.toolkits.hosted.bar import route_losses
from danceopd_ext.toolkits.hosted.memory import is_out_of_memory, out_of_memory
from danceopd_ext.toolkits.hosted.saved import saved_since


def go(trainer: Any, args: Namespace) -> None:
    """Train. The trainer makes its `session` (see session.py) when the toolkit's loop starts, and has None before.

    Raises Stopped after Ctrl-C, and TrainingError where memory runs out; the toolkit's other errors pass through.
    """
    start = time.time()
    with route_losses(type(trainer), lambda: trainer.session.shown() if trainer.session else {}):
        try:
            trainer.train(args)
        except (UserError, TrainingError):
            raise
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            step = trainer.session.current if trainer.session else 0
            message = out_of_memory(error, args, step, trainer.session is not None, saved_since(args, start))
            raise TrainingError(message) from error
        finally:
            if trainer.session:
                trainer.session.close()
