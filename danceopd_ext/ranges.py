"""Defines the range of numbers that a setting accepts, and the message for a number outside it.

Every range has two ends: a number that is far too large would end as a run out of memory or time, hours later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

#: the most digits with which a whole number is shown in full
SHOWN_DIGITS = 30


@dataclass(frozen=True, kw_only=True)
class Range:
    """From `minimum` (or anything above `above`) to `maximum` (or anything below `below`); None is no limit.

    lowest: what the smallest number means; usual: common values. Both are appended to the sentences of `wrong`.
    """

    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    lowest: str = ""
    usual: str = ""

    @property
    def is_closed(self) -> bool:
        """Return whether there is a limit at both ends."""
        low, high = (self.minimum, self.above), (self.maximum, self.below)
        return any(one is not None for one in low) and any(one is not None for one in high)

    def wrong(self, number: float) -> str:
        """Return what the number must be, such as "must be 1 or more"; empty if it is within the range.

        NaN and infinite numbers are never within the range.
        """
        if isinstance(number, float) and not math.isfinite(number):
            return "must be a finite number"
        if self.minimum is not None and not number >= self.minimum:
            return f"must be {shown(self.minimum)} or more{self.lowest and f'; {self.lowest}'}"
        if self.above is not None and not number > self.above:
            return f"must be more than {shown(self.above)}"
        if self.maximum is not None and not number <= self.maximum:
            return f"must be {shown(self.maximum)} or less{self._usually}"
        if self.below is not None and not number < self.below:
            return f"must be below {shown(self.below)}{self._usually}"
        return ""

    def words(self) -> str:
        """Return both ends in words, such as "from 1 to 4,096"."""
        low = f"from {shown(self.minimum)}" if self.minimum is not None else f"above {shown(self.above)}"
        return f"{low} to {shown(self.maximum)}" if self.maximum is not None else f"{low} and below {shown(self.below)}"

    @property
    def _usually(self) -> str:
        return self.usual and f"; {self.usual}"


def shown(number: float) -> str:
    """Return the number in readable form; for a very long whole number, how many digits it has."""
    if isinstance(number, float):
        return shown(int(number)) if number.is_integer() and abs(number) < 1e15 else f"{number:g}"
    digits = int(number.bit_length() * math.log10(2)) + 1  # str() refuses numbers of thousands of digits
    if digits > SHOWN_DIGITS:
        return f"a number of about {digits:,} digits"
    return str(number) if abs(number) < 10_000 else f"{number:,}"


def written(value: Any) -> str:
    """Return a value as Python writes it, for a message; very long whole numbers as `shown` gives them."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, int) and abs(value) >= 10**SHOWN_DIGITS:
        return shown(value)
    try:
        return repr(value)
    except ValueError:  # Python does not write whole numbers of more than 4,300 digits, and the value contains one
        return "a value that contains a number with thousands of digits"


#: a side of a picture, in pixels
PIXELS = Range(minimum=1, maximum=16_384, usual="usual values are 512 to 2,048")
#: optimizer steps of a run; the names of states have eight digits
STEPS = Range(minimum=1, maximum=1_000_000, usual="usual values are 500 to 20,000")
#: solver steps of a picture
SOLVER_STEPS = Range(minimum=1, maximum=1000, usual="usual values are 8 to 50")
#: samples of an optimizer step on each process
SAMPLES = Range(minimum=1, maximum=4096, usual="usual values are 1 to 64")
#: the rank of a LoRA; no layer of a known model can use a higher one
RANK = Range(minimum=1, maximum=4096, usual="usual values are 4 to 128")
#: the factor of a LoRA
STRENGTH = Range(minimum=-100, maximum=100, usual="usual values are 0.5 to 1.5")
#: classifier-free guidance; diffusers' Z-Image pipeline calls 0 what is 1 elsewhere
GUIDANCE = Range(minimum=1, maximum=100, lowest="1 means no guidance", usual="usual values are 1 to 10")
#: seeds that torch's generators accept
SEED = Range(minimum=0, maximum=2**64 - 1)
#: how often a route is drawn, relative to the others
WEIGHT = Range(minimum=0, maximum=1e6, usual="usual values are 0.1 to 10")


def every(instead: str) -> Range:
    """Return the range of "every N steps". `instead`: what to do instead of a value that exceeds every run."""
    return Range(minimum=1, maximum=STEPS.maximum, usual=instead)
