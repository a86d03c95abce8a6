"""Reads and writes LoRA files, and puts adapters on a shared base."""
