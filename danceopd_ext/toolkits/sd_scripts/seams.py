"""Lists the seams between our code and sd-scripts: its trainers' methods, and its functions that we call.

`toolkits/hosted/seams.py` compares all of it with the user's version before anything is loaded.
"""

from __future__ import annotations

from danceopd_ext.toolkits.hosted.architecture import Architecture
from danceopd_ext.toolkits.hosted.seams import Call, Seams

#: method that we override or call -> parameters that we use
METHODS: dict[str, tuple[str, ...]] = {
    "assert_extra_args": ("args", "train_dataset_group", "val_dataset_group"),
    "cache_text_encoder_outputs_if_needed": ("args", "accelerator", "text_encoders", "dataset"),
    "post_process_network": ("args", "accelerator", "network", "text_encoders", "unet"),
    "prepare_unet_with_accelerator": ("args", "accelerator", "unet"),
    "process_batch": ("batch", "text_encoders", "network", "accelerator", "args", "is_train"),
    "get_noise_pred_and_target": ("args", "latents", "batch", "text_encoder_conds", "unet|dit", "is_train"),
    "get_models_for_text_encoding": ("args", "accelerator", "text_encoders"),
    "sample_images": ("accelerator", "args", "epoch", "global_step"),
    "generate_step_logs": ("args", "current_loss", "avr_loss", "lr_scheduler"),
    "accelerator_logging": ("accelerator", "logs", "step_value", "global_step", "epoch"),
    "update_metadata": ("metadata", "args"),
    "train": ("args",),
}

_UTIL, _CONFIG, _STRATEGY = "library.train_util", "library.config_util", "library.strategy_base"

#: calls of every architecture
COMMON: tuple[Call, ...] = (
    Call(f"{_STRATEGY}:TokenizeStrategy.get_strategy"),
    Call(f"{_STRATEGY}:TextEncodingStrategy.get_strategy"),
    Call(
        f"{_UTIL}:BaseDataset",
        named=("resolution", "network_multiplier", "debug_dataset"),
        known=("train_inpainting",),
    ),
    Call(f"{_UTIL}:BaseDataset.register_image", ("", "info", "subset")),
    Call(f"{_UTIL}:BaseDataset.set_tag_frequency", ("", "dir_name", "captions")),
    Call(f"{_UTIL}:BaseDataset.set_seed", ("", "seed")),
    Call(f"{_UTIL}:BaseDataset.shuffle_buckets", ("",)),
    Call(f"{_UTIL}:BaseDataset.process_caption", ("", "subset", "caption")),
    Call(f"{_UTIL}:BaseDataset.new_cache_text_encoder_outputs", ("", "models", "accelerator")),
    Call(f"{_UTIL}:DatasetGroup", ("datasets",)),
    Call(f"{_UTIL}:ImageInfo", named=("image_key", "num_repeats", "caption", "is_reg", "absolute_path")),
    Call(f"{_UTIL}:BucketManager", named=("no_upscale", "max_reso", "min_size", "max_size", "reso_steps")),
    Call(f"{_UTIL}:BucketManager.add_if_new_reso", ("", "reso")),
    Call(f"{_UTIL}:BucketManager.add_image", ("", "reso", "image_or_info")),
    Call(f"{_UTIL}:BucketBatchIndex", named=("bucket_index", "bucket_batch_size", "batch_index")),
    Call(
        f"{_UTIL}:DreamBoothSubset",
        named=(
            "image_dir", "is_reg", "class_tokens", "caption_extension", "cache_info", "alpha_mask", "num_repeats",
            "color_aug", "flip_aug", "face_crop_aug_range", "random_crop", "custom_attributes", "shuffle_caption",
            "caption_separator", "keep_tokens", "keep_tokens_separator", "secondary_separator", "enable_wildcard",
            "caption_dropout_rate", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "caption_prefix",
            "caption_suffix", "token_warmup_min", "token_warmup_step",
        ),
    ),
    Call(
        f"{_CONFIG}:ConfigSanitizer",
        named=("support_dreambooth", "support_finetuning", "support_controlnet", "support_dropout"),
    ),
    Call(f"{_CONFIG}:BlueprintGenerator", ("sanitizer",)),
    Call(f"{_CONFIG}:BlueprintGenerator.generate", ("", "user_config", "argparse_namespace")),
    Call(f"{_CONFIG}:load_user_config", ("file",)),
    Call(f"{_CONFIG}:generate_dataset_group_by_blueprint", ("dataset_group_blueprint",), returns=2),
)  # fmt: skip


def seams_of(architecture: Architecture) -> Seams:
    """Return all seams of an architecture."""
    maker = f"{architecture.network_module}:create_network_from_weights"
    network = Call(
        maker, ("multiplier", "file", "", "", ""), ("weights_sd", "for_inference"), returns=2
    )  # the VAE's and the transformer's names differ
    return Seams(METHODS, {"get_noise_pred_and_target": 4}, (*COMMON, network, *architecture.calls))
