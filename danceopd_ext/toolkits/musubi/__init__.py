"""musubi-tuner's own trainers, running the method: their datasets, caches, optimizers, block swap, saving and sampling
are reused.

Read `trainer` (the seams, in the order in which musubi calls them), `adapter` (what an architecture says about itself;
one file each), then `attach`, `data`, `prompt_data`, `swap`, `resume`. Nothing here imports musubi before it runs.
"""
