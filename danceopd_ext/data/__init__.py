"""Datasets and prompt files become the steps of a run; encoded prompts are kept on disk.

Read in this order: `items`, `load` (all of a preset's data), `plan` (what every step sees), `captions`, `text_cache`;
`pictures` and `latent_cache` where the pictures themselves are used, `source_images` and `source_folder` for edits.
"""
