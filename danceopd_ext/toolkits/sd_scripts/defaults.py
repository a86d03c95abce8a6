"""What the toolkit's arguments are where a preset does not say: the method's defaults, and what it always needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from danceopd_ext.toolkits.sd_scripts.registry import Architecture

#: instead of the toolkit's own default, where nothing is given; the words and values of a native preset
DEFAULTS: dict[str, Any] = {
    "network_dim": 128,
    "learning_rate": 2e-4,
    "max_train_steps": 3000,
    "gradient_accumulation_steps": 4,
    "mixed_precision": "bf16",
    "seed": 42,
    "output_dir": "output",
    "output_name": "danceopd_lora",
    "save_precision": "bf16",
    "cache_text_encoder_outputs": True,
    "max_data_loader_n_workers": 0,  # a batch is a cached text: workers would only hold copies of the cache
}
#: whatever is given: only the transformer is trained, and no picture is read (so the VAE may leave the device)
ALWAYS: dict[str, Any] = {"network_train_unet_only": True, "cache_latents": True, "cache_latents_to_disk": False}
#: optimizers whose weight decay is on by default
DECAYING = ("adamw", "lion")


def completed(values: Mapping[str, Any], given: Collection[str], architecture: Architecture) -> dict[str, Any]:
    """The toolkit's arguments, complete. `given`: those that the user wrote."""
    complete = {**values, **{name: value for name, value in DEFAULTS.items() if name in values and name not in given}}
    if "network_alpha" not in given:
        complete["network_alpha"] = complete["network_dim"]
    name = (complete["optimizer_type"] or "adamw").lower()
    if "optimizer_args" not in given and any(word in name for word in DECAYING):
        complete["optimizer_args"] = ["weight_decay=0"]
    if complete["persistent_data_loader_workers"] and not complete["max_data_loader_n_workers"]:
        complete["persistent_data_loader_workers"] = False
    complete["network_module"] = complete["network_module"] or architecture.network_module
    return {**complete, **ALWAYS, **architecture.fixed}
