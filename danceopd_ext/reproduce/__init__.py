"""Reproduces the paper's tables in the demo world with one command (`scripts/reproduce.py`).

- `budgets`: how much is trained and drawn
- `pretrained`: the base and the teachers
- `tables`: every table, as a list of runs
- `plan`: a table with its seeds, `presets`: a run -> a preset of the native trainer
- `runner`: trains what is missing, resumes what was interrupted
- `evaluate`: draws with a model and scores the drawings by the world's exact checks
- `entries`, `summary`, `stats`: the raw numbers, their means over seeds, and their uncertainty
- `markdown`, `plots`, `grids`, `table_files`: the output; `join_tables`: joins rows that were made separately
- `side_experiments`: tables with other settings, as a page and numbers
- `claims`, `page`: the paper's claims compared with the results
- `command`: all of these, in order
- `repeats`, `seconds`: how many of a model's errors are chance; the cost of a step of each row
- `dispatch`: chooses the command by the first word of the command line
"""
