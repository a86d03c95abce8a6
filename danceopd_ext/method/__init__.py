"""Implements DanceOPD in pure torch (arXiv 2606.27377), and the methods that the paper compares it with.

Depends on no toolkit, file or model.

Read in this order: `update` (the five steps), `routing`, `rollout`, `query`, `fields`, `randomness`; then `methods`
and the baselines one by one: `off_policy`, `joint`, `diffusion_opd`, `sde` with `flow_opd`, `soft`, `objectives`.
"""

from danceopd_ext.method.fields import Condition, CountedField, Field, by_route, guided, mixture
from danceopd_ext.method.methods import MERGES, METHODS, Method
from danceopd_ext.method.query import QUERIES, draw_query_indices
from danceopd_ext.method.randomness import derive_seed, generator, sample_noise
from danceopd_ext.method.records import Batch, MethodOptions, Outcome, Report, Step, Student
from danceopd_ext.method.rollout import rollout
from danceopd_ext.method.routing import draw_route, shares
from danceopd_ext.method.update import distil, update, velocity_mse

__all__ = [
    "MERGES",
    "METHODS",
    "QUERIES",
    "Batch",
    "Condition",
    "CountedField",
    "Field",
    "Method",
    "MethodOptions",
    "Outcome",
    "Report",
    "Step",
    "Student",
    "by_route",
    "derive_seed",
    "distil",
    "draw_query_indices",
    "draw_route",
    "generator",
    "guided",
    "mixture",
    "rollout",
    "sample_noise",
    "shares",
    "update",
    "velocity_mse",
]
