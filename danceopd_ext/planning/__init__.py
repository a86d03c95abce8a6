"""Says what a run needs before a weight is loaded: memory by part and phase, hours, disk, and what to change.

Read in this order: `blueprint` (what the model's configuration files say), `work` (what the preset asks), `tally`,
`paper` and `count` (the real code on fake tensors), `parts` and `phases` (memory), `cards` and `hours` (time), `advice`
(what to change), `report` and `command`.
"""
