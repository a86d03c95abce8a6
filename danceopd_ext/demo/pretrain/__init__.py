"""Makes the demo's pipeline and teacher LoRAs from nothing; only `scripts/demo_pretrain.py` needs it."""
