"""Measures what the package takes in seconds and memory.

An update compared with the plain way to compute the same one (`scripts/benchmark.py`):

- `random_model`: a random pipeline of a real model's shape, and its teachers
- `compared_updates`: the package's update and the plain one, which have the same gradient
- `measure`: seconds, forwards and memory of one of them
- `command`: both in turns, each in its own process

`real_size`: a step on a random model of a real model's size (`scripts/real_size.py`); `lora_memory`: reading a LoRA
(`scripts/lora_memory.py`).
"""
