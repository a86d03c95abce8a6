"""DanceOPD inside a user's checkout of kohya-ss/sd-scripts: that toolkit's trainers run, and the update is ours.

Read `trainer` (the mixin), `registry` (the architectures), one adapter such as `sd3`, then `data` and `run`.
"""
