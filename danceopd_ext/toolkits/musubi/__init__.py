"""Runs the method on musubi-tuner's trainers, with their datasets, caches, optimizers, block swap, saving and sampling.

Read `trainer` (the seams, in the order in which musubi calls them), `adapter` (what a model provides; the models are in
`adapters`), then `routed_group`, `prompt_data`, `block_swap`. What both toolkits share, such as attaching teachers and
resuming a run, is in `toolkits/hosted`. Nothing here imports musubi before it runs.
"""
