"""Reads, checks and explains presets, by one typed schema."""

from danceopd_ext.config.load import load_preset
from danceopd_ext.config.schema import Preset, Teacher

__all__ = ["Preset", "Teacher", "load_preset"]
