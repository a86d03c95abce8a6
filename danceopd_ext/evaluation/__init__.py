"""Draws pictures for the official scorers of GenEval and GEdit-Bench, and computes scores that need no service."""
