"""Pictures for the official scorers of GenEval and GEdit-Bench, and what can be scored without another service."""
