"""Sets the toolkit's arguments that a preset leaves out, and those that the method always needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from danceopd_ext.config.learning_rate import default_rate
from danceopd_ext.toolkits.hosted.architecture import Architecture
from danceopd_ext.toolkits.hosted.defaults import DEFAULTS, without_decay

#: used instead of the toolkit's own defaults
OWN: dict[str, Any] = {
    **DEFAULTS,
    "cache_text_encoder_outputs": True,
    "max_data_loader_n_workers": 0,  # a batch is a cached text: workers would only hold copies of the cache
}
#: always set: only the transformer is trained, and no picture is read (so the VAE may leave the device)
ALWAYS: dict[str, Any] = {"network_train_unet_only": True, "cache_latents": True, "cache_latents_to_disk": False}


def completed(values: Mapping[str, Any], given: Collection[str], architecture: Architecture) -> dict[str, Any]:
    """Return the toolkit's complete arguments. `given`: those that the user wrote."""
    complete = {**values, **{name: value for name, value in OWN.items() if name in values and name not in given}}
    if "network_alpha" not in given:
        complete["network_alpha"] = complete["network_dim"]
    if "learning_rate" not in given:
        complete["learning_rate"] = default_rate(complete["optimizer_type"] or "")
    if "optimizer_args" not in given:
        complete["optimizer_args"] = without_decay(complete["optimizer_type"] or "adamw")
    if complete["persistent_data_loader_workers"] and not complete["max_data_loader_n_workers"]:
        complete["persistent_data_loader_workers"] = False
    if complete.get("attn_mode") == "sdpa":
        complete["attn_mode"] = "torch"  # as the toolkit's own script does before it trains
    complete["network_module"] = complete["network_module"] or architecture.network_module
    return {**complete, **ALWAYS, **architecture.fixed}
