"""Runs training in a toolkit: our own loop (native), sd-scripts or musubi-tuner (hosted)."""
