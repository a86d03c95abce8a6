"""What the trainers of other toolkits share: their own loop stays, and the method's update runs inside it.

Read `distiller` (the update on a borrowed trainer), `switch` (whose LoRA is heard), `conditions`, `adapter`; then `go`
and `session` (a run with its log, its end by Ctrl-C or by a full memory).
"""
