"""Reads files that others made: text, TOML, JSON, tables and tensors are read only here, within limits.

Whatever a file contains, the result is a value of plain types, or a UserError that names the file. What the value means
is up to the caller. This package imports nothing of ours but `errors`.
"""
