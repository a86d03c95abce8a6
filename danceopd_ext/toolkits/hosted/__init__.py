"""What the trainers of other toolkits share: their own loop stays, and the method's update runs inside it.

Read `distiller` (the update on a borrowed trainer), `switch` (whose LoRA is heard), `conditions`, `adapter`.
"""
