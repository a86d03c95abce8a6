"""danceopd_ext: fuse several skills of an image model into one LoRA (DanceOPD, arXiv 2606.27377)."""

__version__ = "0.1.0"
