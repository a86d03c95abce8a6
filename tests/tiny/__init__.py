"""Tiny random models in the real formats, made on the spot."""
