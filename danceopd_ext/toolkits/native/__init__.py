"""The native toolkit: our own training loop on diffusers, peft and accelerate.

Read in this order: `train` (the run from start to end), `prepare` and `checks` (all that can be wrong with the
input), `build` (model, teachers, student), `loop`, `batches`, `targets`, `optimizers`, `state`, `output`, `previews`,
`journal`, `processes`, `stop`; `merging` for the methods that train nothing.
"""
