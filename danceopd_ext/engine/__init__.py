"""A model that is ready to be asked: its files, its velocity fields, what it is asked about, and its pictures.

Training, previews, evaluation and the benchmark all use this room. It knows no preset and no training loop.
"""
