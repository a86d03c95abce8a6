"""Implements soft routing, an ablation of the paper: the mean of all teachers is the teacher of every route."""

from __future__ import annotations

from collections.abc import Mapping

from danceopd_ext.method.accumulate import Data
from danceopd_ext.method.fields import Field, mixture
from danceopd_ext.method.records import Report, Step, Student
from danceopd_ext.method.routing import shares
from danceopd_ext.method.update import update


def soft(
    step: Step, routes: Mapping[str, float], data: Data, teachers: Mapping[str, Field], student: Student
) -> Report:
    """DanceOPD's update (see `update`) on the same data, with the plain mean of the routes' teachers as each teacher.

    A route that is never drawn (weight 0) is not part of the mean. Each sample needs a forward of every teacher.
    """
    names = list(shares(routes))
    mean = mixture([teachers[name] for name in names], [1.0] * len(names))
    return update(step, routes, data, dict.fromkeys(names, mean), student)
