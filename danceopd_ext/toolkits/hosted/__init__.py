"""Runs the method inside the trainers of other toolkits: the toolkit keeps its loop, and the update is ours.

Read `distiller` (the update on a borrowed trainer), `active_adapter` (whose LoRA acts), `conditions` and `adapter`,
then `run_trainer` and `session` (the log of a run, Ctrl-C, and what happens if memory runs out).
"""
