"""Turns OmniEdit-style edit data into folders of edit routes (`scripts/omniedit_routes.py`).

- `rows`: the rows of local files or of a dataset on the hub
- `edits`: a row -> its route, instruction and pictures, and how these are written
- `settings`: the note on what a folder was made from, so that no other run adds to it
- `tables`: the .csv files and dataset.toml
- `command`: all of it, in order
"""
