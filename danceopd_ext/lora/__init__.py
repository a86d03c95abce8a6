"""LoRA files in and out, and adapters on a shared base."""
