"""The paper's tables in the demo world, by one command (`scripts/reproduce.py`).

- `budgets`: how much is trained and drawn
- `pretrained`: the base and the teachers
- `tables`: every table, as a list of runs
- `plan`: a table with its seeds, `presets`: a run -> a preset of the native trainer
- `runner`: trains what is missing, resumes what was cut off
- `evaluate`: draws with a model and scores the drawings by the world's exact checks
- `entries`, `summary`, `stats`: the raw numbers, their means over seeds, and how sure these are
- `markdown`, `plots`, `grids`, `table_files`: what is written; `join_tables`: rows that were made apart into one table
- `side_experiments`: a table with other settings, as its page and numbers alone
- `claims`, `page`: the paper's claims beside what came out
- `command`: all of it, in order
- `repeats`, `seconds`: how much of a model's faults is chance; what a step of each row takes
- `dispatch`: what the first word of the command line starts
"""
