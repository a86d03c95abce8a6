"""Supports the model families: one file each, and one line in `registry`."""
