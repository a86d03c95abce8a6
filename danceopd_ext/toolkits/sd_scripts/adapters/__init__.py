"""The models that sd-scripts trains: a file describes one, or several of one transformer."""
