"""Defines how much a reproduction trains and draws, and from which data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The sizes that all runs of a table share."""

    steps: int
    """optimizer steps of every run"""
    samples: int
    """samples per step, over all routes and trajectories; a multiple of twice `group`"""
    rank: int
    """of the student"""
    rollout: int
    """solver steps of the student's rollout, and of the drawings of the evaluation"""
    group: int
    """trajectories of a prompt in Flow-OPD"""
    examples: int
    """training examples of each kind"""
    targets: str = "world"
    """what the target pictures of the data are: the true ones ("world"), or as the route's teacher draws them
    ("teacher")"""
    tested: int
    """held-out prompts and edits of each kind"""
    queries: tuple[int, ...]
    """values of K in the ablation"""
    rollouts: tuple[int, ...]
    """rollout lengths in the ablation"""
    scales: tuple[float, ...]
    """guidance of the teacher (alpha) and at inference (beta) in the guidance table"""


#: seconds; about a quarter of an hour of two cores for a seed of `composition`; and five times that
BUDGETS: dict[str, Budget] = {
    "smoke": Budget(
        steps=2, samples=4, rank=2, rollout=2, group=2, examples=2, tested=1, queries=(1, 2), rollouts=(2, 3),
        scales=(1.0, 3.0),
    ),
    "quick": Budget(
        steps=600, samples=8, rank=32, rollout=8, group=4, examples=100, tested=128, queries=(1, 4, 16),
        rollouts=(4, 8, 16, 28), scales=(1.0, 3.0, 7.0),
    ),
    "full": Budget(
        steps=1500, samples=16, rank=32, rollout=8, group=8, examples=500, tested=128, queries=(1, 4, 16),
        rollouts=(4, 8, 16, 28), scales=(1.0, 2.0, 3.0, 5.0, 7.0),
    ),
}  # fmt: skip
