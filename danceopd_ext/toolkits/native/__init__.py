"""The native toolkit: our own training loop on diffusers, peft and accelerate.

Read in this order: `train` (the run from start to end), `prepare`, `checks`, `teachers` and `student` (everything that
can be wrong with the input, and the `run_plan` that comes of it), `encoding` (what encoders give, kept on disk),
`build` (the fields of base, teachers and student), `loop`, `optimizers`, `state`, `resuming` and `identity`, `output`,
`previews`, `journal`, `processes`, `stop` and `console`; `merging` for the methods that train nothing.
"""
