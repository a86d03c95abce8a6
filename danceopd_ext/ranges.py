"""The numbers that a setting takes, with both ends, and what is said of a number outside of them.

A number without an upper limit is a run that never ends or wants more memory than there is, found out hours later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

#: digits of a whole number that is still shown as it is
SHOWN_DIGITS = 30


@dataclass(frozen=True, kw_only=True)
class Range:
    """From `minimum` (or anything above `above`) to `maximum` (or anything below `below`); None is no limit.

    lowest: what the smallest number means, and usual: what people use; both end the sentences of `wrong`.
    """

    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    lowest: str = ""
    usual: str = ""

    @property
    def is_closed(self) -> bool:
        """Whether there is a limit at both ends."""
        low, high = (self.minimum, self.above), (self.maximum, self.below)
        return any(one is not None for one in low) and any(one is not None for one in high)

    def wrong(self, number: float) -> str:
        """What the number must be, such as "must be 1 or more"; empty if it is within the range.

        A number that is not finite is within no range.
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
        """Both ends in words, such as "from 1 to 4,096"."""
        low = f"from {shown(self.minimum)}" if self.minimum is not None else f"above {shown(self.above)}"
        return f"{low} to {shown(self.maximum)}" if self.maximum is not None else f"{low} and below {shown(self.below)}"

    @property
    def _usually(self) -> str:
        return self.usual and f"; {self.usual}"


def shown(number: float) -> str:
    """The number as people read it; of a whole number that is too long for that, how many digits it has."""
    if isinstance(number, float):
        return shown(int(number)) if number.is_integer() and abs(number) < 1e15 else f"{number:g}"
    digits = int(number.bit_length() * math.log10(2)) + 1  # str() refuses numbers of thousands of digits
    if digits > SHOWN_DIGITS:
        return f"a number of about {digits:,} digits"
    return str(number) if abs(number) < 10_000 else f"{number:,}"


def written(value: Any) -> str:
    """A value as Python writes it, for a message; whole numbers that are too long to be read as `shown`."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, int) and abs(value) >= 10**SHOWN_DIGITS:
        return shown(value)
    try:
        return repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits, here somewhere inside
        return "a value that contains a number with thousands of digits"


#: a side of a picture, in pixels
PIXELS = Range(minimum=1, maximum=16_384, usual="usual values are 512 to 2,048")
#: optimizer steps of a run; the names of states have eight digits
STEPS = Range(minimum=1, maximum=1_000_000, usual="usual values are 500 to 20,000")
#: solver steps of a drawing
SOLVER_STEPS = Range(minimum=1, maximum=1000, usual="usual values are 8 to 50")
#: samples of an optimizer step on each process
SAMPLES = Range(minimum=1, maximum=4096, usual="usual values are 1 to 64")
#: the rank of a LoRA; no layer of a known model has a use for a higher one
RANK = Range(minimum=1, maximum=4096, usual="usual values are 4 to 128")
#: what a LoRA is multiplied with
STRENGTH = Range(minimum=-100, maximum=100, usual="usual values are 0.5 to 1.5")
#: classifier-free guidance; diffusers' Z-Image pipeline calls 0 what is 1 elsewhere
GUIDANCE = Range(minimum=1, maximum=100, lowest="1 means no guidance", usual="usual values are 1 to 10")
#: what torch's generators take
SEED = Range(minimum=0, maximum=2**64 - 1)
#: how often a route is drawn, against the others
WEIGHT = Range(minimum=0, maximum=1e6, usual="usual values are 0.1 to 10")


def every(instead: str) -> Range:
    """The numbers of "every so many steps". `instead`: what to do for a rhythm that no run is long enough for."""
    return Range(minimum=1, maximum=STEPS.maximum, usual=instead)
