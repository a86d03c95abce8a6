"""Describes the models that musubi-tuner trains: a file for each, or for several with one transformer."""
