"""The models that musubi-tuner trains: a file describes one, or several of one transformer."""
