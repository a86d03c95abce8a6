"""The native toolkit: our own training loop on diffusers, peft and accelerate.

Read in this order: `train` (the run from start to end), `prepare` and `checks` (all that can be wrong with the
input), `texts`, `sources` and `targets` (what encoders give, kept on disk), `build` (model, teachers, student), `loop`,
`batches`, `optimizers`, `state` and `identity`, `output`, `previews`, `journal`, `processes`, `stop` and `console`;
`merging` for the methods that train nothing.
"""
