"""Runs DanceOPD inside a user's checkout of kohya-ss/sd-scripts: the toolkit's trainers run, and the update is ours.

Read `trainer` (the mixin), one model such as `adapters/sd3`, then `data` and `run`. What both toolkits share, such as
how teachers are attached and how a run is resumed, is in `toolkits/hosted`.
"""
