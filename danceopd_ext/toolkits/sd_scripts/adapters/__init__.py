"""Describes the models that sd-scripts trains: a file for each, or for several with one transformer."""
