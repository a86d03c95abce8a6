"""Lists the seams between our code and musubi-tuner: its trainers' methods, and its functions that we call.

`toolkits/hosted/seams.py` compares all of it with the user's version before anything is loaded.
"""

from __future__ import annotations

from danceopd_ext.toolkits.hosted.seams import Call, Seams

_IMAGES = "musubi_tuner.dataset.image_video_dataset"

SEAMS = Seams(
    methods={
        "train": ("args",),
        "_validate_args_and_init": ("args",),
        "handle_model_specific_args": ("args",),
        "_build_dataset": ("args",),
        "_prepare_sampling": ("args", "accelerator", "vae_dtype"),
        "on_transformer_loaded": ("args", "accelerator", "transformer"),
        "_build_optimizer_and_dataloader": ("args", "accelerator", "network", "train_dataset_group"),
        "_prepare_with_accelerator": ("args", "accelerator", "transformer", "network"),
        "_register_hooks_and_resume": ("args", "accelerator", "network"),
        "on_train_start": ("args", "accelerator", "network", "transformer"),
        "process_batch": ("args", "accelerator", "transformer", "network", "batch", "latents"),
        "call_dit": (
            "args", "accelerator", "transformer", "latents", "batch", "noise", "noisy_model_input", "timesteps",
            "network_dtype",
        ),
        "on_post_optimizer_step": ("accelerator", "sync_gradients", "global_step"),
        "sample_images": ("accelerator", "transformer"),
        "extra_metadata": ("args",),
    },
    returns={"_build_dataset": 3, "_build_optimizer_and_dataloader": 8, "_prepare_with_accelerator": 7},
    calls=(
        Call(
            f"{_IMAGES}:ItemInfo", ("item_key", "caption", "original_size", "bucket_size"), ("latent_cache_path",)
        ),
        Call(f"{_IMAGES}:BucketBatchManager", ("bucketed_item_info", "batch_size")),
        Call("musubi_tuner.training.accelerator_setup:collator_class", ("epoch", "dataset")),
        Call(
            "musubi_tuner.networks.lora:create_network_from_weights",
            ("target_replace_modules", "multiplier", "weights_sd"),
            ("unet", "for_inference"),
        ),
    ),
)  # fmt: skip
