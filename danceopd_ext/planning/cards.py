"""GPUs that people train on: memory, arithmetic and bandwidth, from their vendors' tables.

Sources: NVIDIA's architecture whitepapers of Ampere GA102, Ada and RTX Blackwell for GeForce and RTX cards ("Peak FP16
Tensor TFLOPS with FP32 Accumulate", without sparsity, which for GeForce is twice the FP32 TFLOPS), NVIDIA's data sheets
of A10, A100, L4, L40S, H100 and H200, AMD's product page of the 7900 XTX. bf16 has the figures of fp16.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from danceopd_ext.errors import UserError, nearest


@dataclass(frozen=True)
class Card:
    """`memory` in GiB, `tflops` of bf16 tensor arithmetic that adds in float32, `bandwidth` of its memory in GB/s.

    `reached`: the part of `tflops` that matrix products reach, assumed: 0.9 on cards whose clocks go above those of
    the table, 0.65 on cards for data centres, which slow down at their power limit.
    """

    name: str
    memory: float
    tflops: float
    bandwidth: float
    reached: float = 0.9


#: `reached` of cards for data centres
DATA_CENTRE = 0.65

CARDS = [
    Card("RTX 3060", 12, 25.5, 360), Card("RTX 3060 Ti", 8, 32.4, 448), Card("RTX 3070", 8, 40.6, 448),
    Card("RTX 3070 Ti", 8, 43.5, 608), Card("RTX 3080", 10, 59.5, 760), Card("RTX 3080 12GB", 12, 61.3, 912),
    Card("RTX 3080 Ti", 12, 68.2, 912), Card("RTX 3090", 24, 71.2, 936), Card("RTX 3090 Ti", 24, 80.0, 1008),
    Card("RTX 4060", 8, 30.2, 272), Card("RTX 4060 Ti", 8, 44.1, 288), Card("RTX 4060 Ti 16GB", 16, 44.1, 288),
    Card("RTX 4070", 12, 58.3, 504), Card("RTX 4070 Super", 12, 71.0, 504), Card("RTX 4070 Ti", 12, 80.2, 504),
    Card("RTX 4070 Ti Super", 16, 88.2, 672), Card("RTX 4080", 16, 97.5, 717), Card("RTX 4080 Super", 16, 104.4, 736),
    Card("RTX 4090", 24, 165.2, 1008), Card("RTX 4070 Laptop", 8, 31.2, 256), Card("RTX 4080 Laptop", 12, 49.5, 432),
    Card("RTX 4090 Laptop", 16, 66.0, 576), Card("RTX 5060", 8, 38.4, 448), Card("RTX 5060 Ti", 8, 47.4, 448),
    Card("RTX 5060 Ti 16GB", 16, 47.4, 448), Card("RTX 5070", 12, 61.7, 672), Card("RTX 5070 Ti", 16, 87.9, 896),
    Card("RTX 5080", 16, 112.6, 960), Card("RTX 5090", 32, 209.5, 1792), Card("RTX A4000", 16, 76.7, 448),
    Card("RTX A5000", 24, 111.1, 768), Card("RTX A6000", 48, 154.8, 768), Card("RTX 6000 Ada", 48, 364.2, 960),
    Card("A10", 24, 125.0, 600, DATA_CENTRE), Card("L4", 24, 121.0, 300, DATA_CENTRE),
    Card("L40S", 48, 362.0, 864, DATA_CENTRE), Card("A100 40GB", 40, 312.0, 1555, DATA_CENTRE),
    Card("A100 80GB", 80, 312.0, 2039, DATA_CENTRE), Card("H100", 80, 989.0, 3350, DATA_CENTRE),
    Card("H200", 141, 989.0, 4800, DATA_CENTRE), Card("RX 7900 XTX", 24, 122.8, 960),
]  # fmt: skip

#: the card that stands for all with this much memory (GiB), if none is named
TYPICAL = {8: "RTX 4060", 10: "RTX 3080", 12: "RTX 4070", 16: "RTX 4060 Ti 16GB", 24: "RTX 3090", 32: "RTX 5090",
           48: "RTX A6000", 80: "A100 80GB"}  # fmt: skip


def find_card(name: str, memory: float | None = None) -> Card:
    """Return the card with this name, as a person or a driver writes it ("NVIDIA GeForce RTX 4070").

    `memory`: GiB, where one name has several. Raises UserError with the nearest known name.
    """
    alike = [card for card in CARDS if _plain(card.name) == _plain(name)]
    sizes = [card for card in CARDS if _without_size(card.name) == _without_size(name)]
    found = sorted(sizes, key=lambda card: abs(card.memory - memory)) if memory else alike or sizes
    if not found:
        raise UserError(
            f'--card "{name}" is unknown.{nearest(name, [card.name for card in CARDS])} Known: '
            f"{', '.join(card.name for card in CARDS)}. Or give its memory in GB: --vram 12."
        )
    return found[0]


def typical_card(memory: float) -> Card:
    """Return a card with about this much memory (GiB), whose speed stands for all of them."""
    size = min(TYPICAL, key=lambda known: abs(known - memory))
    card = find_card(TYPICAL[size])
    return replace(card, name=f"{memory:g} GB, as fast as an {card.name}", memory=memory)


def _plain(name: str) -> str:
    words = re.sub(r"nvidia|geforce|amd|radeon|graphics|gpu|pcie|sxm\d?|hbm3e?|rtx|rx", "", name.lower())
    return re.sub(r"[^a-z0-9]", "", words)


def _without_size(name: str) -> str:
    return _plain(re.sub(r"\b\d+ ?gb\b", "", name.lower()))
