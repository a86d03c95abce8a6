"""musubi-tuner's own trainers, running the method: their datasets, caches, optimizers, block swap, saving and sampling
are reused.

Read `trainer` (the seams, in the order in which musubi calls them), `adapter` (what a model says about itself; the
models are in `adapters`), then `data`, `prompt_data`, `swap`. What both toolkits share, such as how teachers are
attached and how a run is resumed, is in `toolkits/hosted`. Nothing here imports musubi before it runs.
"""
