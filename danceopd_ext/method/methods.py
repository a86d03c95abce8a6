"""Lists every method by its name in a preset, and what it needs of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from danceopd_ext.method.accumulate import Update, every_route, one_route
from danceopd_ext.method.diffusion_opd import diffusion_opd
from danceopd_ext.method.flow_opd import flow_opd
from danceopd_ext.method.joint import joint
from danceopd_ext.method.objectives import RULES, objective
from danceopd_ext.method.off_policy import off_policy
from danceopd_ext.method.soft import soft
from danceopd_ext.method.update import update


@dataclass(frozen=True)
class Method:
    """One method; `MethodOptions` are its options.

    `every_route`: a step uses data of all routes, not of a drawn one. `clean_latents`: the samples' own pictures are
    needed, used if there are any, or not used.
    """

    update: Update
    every_route: bool = False
    clean_latents: Literal["needed", "used", "unused"] = "unused"


METHODS: dict[str, Method] = {
    "danceopd": Method(update),
    "joint": Method(one_route(joint), clean_latents="needed"),
    "offpolicy": Method(one_route(off_policy), clean_latents="used"),
    "diffusionopd": Method(every_route(diffusion_opd), every_route=True),
    "flowopd": Method(one_route(flow_opd)),
    "soft": Method(soft),
    **{name: Method(one_route(objective(rule))) for name, rule in RULES.items()},
}

#: methods that merge the teachers' weights and train nothing -> how (see lora.algebra.merge)
MERGES = {"merge_average": "average", "merge_sum": "sum"}
