"""DanceOPD in pure torch (arXiv 2606.27377): knows no toolkit, no file and no model.

Read in this order: `update` (the five steps), `routing`, `rollout`, `query`, `fields`, `randomness`.
"""

from danceopd_ext.method.fields import Condition, CountedField, Field, by_route, guided, mixture
from danceopd_ext.method.query import QUERIES, draw_query_indices
from danceopd_ext.method.randomness import derive_seed, generator, sample_noise
from danceopd_ext.method.rollout import rollout
from danceopd_ext.method.routing import draw_route
from danceopd_ext.method.update import Batch, Method, Outcome, Report, distil, update, velocity_mse

__all__ = [
    "QUERIES",
    "Batch",
    "Condition",
    "CountedField",
    "Field",
    "Method",
    "Outcome",
    "Report",
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
    "update",
    "velocity_mse",
]
