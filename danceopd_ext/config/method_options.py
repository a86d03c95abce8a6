"""Takes the options of the method out of a preset, the same for every toolkit."""

from __future__ import annotations

from dataclasses import fields

from danceopd_ext.config.schema import DanceOPDSection
from danceopd_ext.method import MethodOptions


def method_options(section: DanceOPDSection) -> MethodOptions:
    """The keys of [danceopd] that the method itself has."""
    return MethodOptions(**{field.name: getattr(section, field.name) for field in fields(MethodOptions)})
