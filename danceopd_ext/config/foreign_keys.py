"""Lists keys of sd-scripts and its GUIs that a native preset lacks: what to write instead, or why they have no effect.

Source: the arguments of sd-scripts' train_network.py and of its train_network scripts for SD3, FLUX.1, Lumina,
HunyuanImage, Anima and SDXL (August 2025 to June 2026), and the settings that kohya_ss and lora-scripts (SD-Trainer)
save. What is done with these keys is in unknown_keys.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from danceopd_ext.config.toolkits import SD_SCRIPTS

#: (the key's value, all values of the preset) -> whether the key can be left out without a loss
Harmless = Callable[[Any, Mapping[str, Any]], bool]


def always(value: Any, values: Mapping[str, Any]) -> bool:
    """Return True: the key changes nothing that matters here."""
    return True


def never(value: Any, values: Mapping[str, Any]) -> bool:
    """Return False: the key asks for something that a native run does not do."""
    return False


def only(*values: Any) -> Harmless:
    """Return a test for values that ask for what a native run does anyway."""
    return lambda value, _: value in values


def same_as(key: str) -> Harmless:
    """Return a test for a value that equals this key's."""
    return lambda value, values: value == values.get(key)


def beside(key: str) -> Harmless:
    """Return a test whether the other key, which takes precedence, is given."""
    return lambda value, values: bool(values.get(key))


def without(key: str) -> Harmless:
    """Return a test whether the other key, without which this one does nothing, is missing."""
    return lambda value, values: not values.get(key)


def in_fp8(value: Any, values: Mapping[str, Any]) -> bool:
    """Return whether the base is held in fp8."""
    return bool(values.get("fp8_base")) or values.get("quantize") == "fp8"


def plain_lora(value: Any, values: Mapping[str, Any]) -> bool:
    """Return whether it is a toolkit's module for a plain LoRA: networks.lora, networks.lora_flux, ..."""
    return str(value).startswith("networks.lora")


@dataclass(frozen=True)
class Group:
    """Keys with one answer. `answer`: what to write instead, or why they have no effect; it follows a colon.

    `harmless`: values that are left out with a note; the others are refused. A key that is switched off (false, 0,
    an empty text or list) is never refused; only a refusal of others mentions it.
    """

    answer: str
    names: str
    harmless: Harmless = never


IN_TOOLKIT = f'toolkit = "{SD_SCRIPTS.name}" takes it'
IN_DATASET = "read from the dataset file that dataset_config names, not from the preset"
STEPS = "training is measured in steps, not epochs (routes take turns, whatever their sizes)"
PLAIN_LOSS = "the loss is the mean squared error of two velocities, without weights"

GROUPS = (
    # --- the same thing under another name
    Group("write its value as learning_rate", "unet_lr", same_as("learning_rate")),
    Group('write optimizer_type = "AdamW8bit"', "use_8bit_adam"),
    Group('write optimizer_type = "Lion"', "use_lion_optimizer"),
    Group("write its value as optimizer_type", "optimizer", beside("optimizer_type")),
    Group("write its value as resolution", "max_resolution", beside("resolution")),
    Group("write its value as sample_prompts", "prompt_file", beside("sample_prompts")),
    Group("write its value as network_dropout", "dropout", beside("network_dropout")),
    Group("name the schedule in lr_scheduler (transformers' names)", "lr_scheduler_type"),
    Group("write its value as lr_scheduler_num_cycles", "lr_restart_cycles", only(1)),
    Group(
        "write lr_warmup_steps: a number of steps, or a share of all if below 1", "lr_warmup", beside("lr_warmup_steps")
    ),
    Group('write lr_scheduler_args = ["num_decay_steps=..."]', "lr_decay_steps"),
    Group('write lr_scheduler_args = ["timescale=..."]', "lr_scheduler_timescale"),
    Group('write lr_scheduler_args = ["min_lr_rate=..."]', "lr_scheduler_min_lr_ratio"),
    Group('write attn_mode = "flash"', "use_flash_attn flash_attn"),
    Group('write attn_mode = "sage"', "use_sage_attn sage_attn"),
    Group("set the guidance of each teacher in its [danceopd.teachers.NAME]", "guidance_scale", only(1)),
    Group("query in [danceopd] sets the noise levels at which the teachers are queried", "min_timestep"),
    Group("query in [danceopd] sets the noise levels at which the teachers are queried", "max_timestep", only(1000)),
    Group("name the LoRA in network_weights to start from it, or as a teacher", "base_weights base_weights_multiplier"),
    Group("set network_dim to the rank of the file in network_weights", "dim_from_weights"),
    Group("resume = FOLDER continues from a saved state", "initial_epoch initial_step skip_until_initial_step"),
    Group("download the state, and name its folder in resume", "resume_from_huggingface"),
    Group(
        "run `wandb login` once, or set the environment variable WANDB_API_KEY; do not write a password into a preset",
        "wandb_api_key",
    ),
    Group(
        "no family that is trained here has this part",
        "gemma2 byt5 llm_adapter_path",
    ),
    Group(
        "tokenizers come with the base model; components_from names another diffusers folder or hub id",
        "t5_tokenizer_path",
    ),
    Group("write its value as pretrained_model_name_or_path", "dit"),
    # --- epochs
    Group(f"{STEPS}: set max_train_steps, a number of steps (3000 by default)", "max_train_epochs epoch"),
    Group(f"{STEPS}: set save_every_n_steps, a number of steps", "save_every_n_epochs save_n_epoch_ratio"),
    Group(f"{STEPS}: set save_last_n_steps, a number of steps", "save_last_n_epochs"),
    Group(f"{STEPS}: set save_last_n_steps_state, a number of steps", "save_last_n_epochs_state"),
    Group(f"{STEPS}: set sample_every_n_steps, a number of steps", "sample_every_n_epochs"),
    # --- data
    Group(
        "name the data in [danceopd.prompts], or in the dataset file of dataset_config",
        "train_data_dir reg_data_dir in_json conditioning_data_dir dataset_class dataset_repeats datasets",
    ),
    Group(
        IN_DATASET,
        "enable_bucket bucket_reso_steps min_bucket_reso max_bucket_reso bucket_no_upscale caption_extension "
        "caption_extention caption_prefix caption_suffix caption_separator secondary_separator shuffle_caption "
        "keep_tokens keep_tokens_separator enable_wildcard caption_dropout_rate caption_dropout_every_n_epochs "
        "caption_tag_dropout_rate skip_image_resolution",
        without("dataset_config"),
    ),
    Group(
        "images are used unchanged, if they are used at all",
        "color_aug flip_aug face_crop_aug_range random_crop alpha_mask masked_loss resize_interpolation cache_info "
        "token_warmup_min token_warmup_step prior_loss_weight",
        always,
    ),
    Group("weights in captions, such as (word:1.2), are not supported", "weighted_captions"),
    # --- the student
    Group("the student is a plain LoRA", "network_module", plain_lora),
    Group("the student is a plain LoRA; lora_targets in [danceopd] chooses its layers", "network_args"),
    Group(f"the student's weights are not limited; {IN_TOOLKIT}", "scale_weight_norms"),
    Group(
        "only the transformer is trained, not the text encoders",
        "text_encoder_lr network_train_text_encoder_only clip_l_dropout_rate clip_g_dropout_rate t5_dropout_rate",
    ),
    Group("only the transformer is ever trained", "network_train_unet_only", always),
    Group(
        "all layers learn at learning_rate; lora_targets in [danceopd] chooses them",
        "self_attn_lr cross_attn_lr mlp_lr mod_lr llm_adapter_lr",
    ),
    # --- loss and noise
    Group(PLAIN_LOSS, "loss_type", only("l2", "mse")),
    Group(PLAIN_LOSS, "huber_schedule huber_c huber_scale", always),
    Group(
        "for SD 1, SD 2 and SDXL, not for flow-matching models",
        "v2 v_parameterization clip_skip max_token_length zero_terminal_snr scale_v_pred_loss_like_noise_pred "
        "v_pred_like_loss debiased_estimation_loss min_snr_gamma noise_offset noise_offset_random_strength "
        "adaptive_noise_scale multires_noise_iterations multires_noise_discount ip_noise_gamma "
        "ip_noise_gamma_random_strength",
        always,
    ),
    Group(
        "noise levels are those of the model's own solver; query in [danceopd] selects among them",
        "timestep_sampling sigmoid_scale weighting_scheme logit_mean logit_std mode_scale discrete_flow_shift "
        "training_shift show_timesteps_resolution",
        always,
    ),
    Group("the model's output is always taken as a velocity", "model_prediction_type", only("raw")),
    Group(f"positions are always the model's own; {IN_TOOLKIT}", "pos_emb_random_crop_rate enable_scaled_pos_embed"),
    Group(
        "texts are encoded as in the model's own pipeline",
        "apply_t5_attn_mask apply_lg_attn_mask t5xxl_max_token_length gemma2_max_token_length qwen3_max_token_length "
        "t5_max_token_length system_prompt",
        always,
    ),
    # --- speed and memory
    Group(
        "prompts and pictures are encoded once and kept on disk, without workers",
        "cache_latents cache_latents_to_disk cache_text_encoder_outputs cache_text_encoder_outputs_to_disk "
        "skip_cache_check vae_batch_size no_half_vae vae_chunk_size vae_disable_cache qwen_image_vae_2d "
        "text_encoder_cpu t5xxl_device t5xxl_dtype tokenizer_cache_dir max_data_loader_n_workers "
        "persistent_data_loader_workers",
        always,
    ),
    Group(
        "loading, attention and precision are chosen by the package itself; the student's weights are float32",
        "lowram highvram disable_mmap_load_safetensors mem_eff_attn full_fp16 full_bf16 fused_backward_pass "
        "cuda_allow_tf32 cuda_cudnn_benchmark",
        always,
    ),
    Group(
        f"a native run cannot save memory this way; {IN_TOOLKIT}. gradient_checkpointing = true and blocks_to_swap "
        "work here",
        "split_mode split_attn cpu_offload_checkpointing unsloth_offload_checkpointing",
    ),
    Group('write quantize = "fp8"', "fp8_base_unet"),
    Group('write quantize = "fp8", whose weights are always scaled', "fp8_scaled", in_fp8),
    Group('write quantize_text_encoders = "fp8"', "fp8_llm fp8_vl fp8_t5 fp8_text_encoder"),
    Group("write torch_compile = true", "compile"),
    Group(
        "torch_compile = true chooses them itself",
        "dynamo_backend compile_backend compile_mode compile_dynamic compile_fullgraph compile_cache_size_limit",
        always,
    ),
    Group("DeepSpeed is not used; to train on several GPUs, use `accelerate launch --num_processes N`", "deepspeed"),
    Group(
        "`accelerate launch` starts and connects the processes",
        "zero_stage offload_optimizer_device offload_optimizer_nvme_path offload_param_device offload_param_nvme_path "
        "zero3_init_flag zero3_save_16bit_model fp16_master_weights_and_gradients ddp_timeout "
        "ddp_gradient_as_bucket_view ddp_static_graph",
        always,
    ),
    # --- saving, pictures, logs
    Group("metadata is always written into the LoRA", "no_metadata"),
    Group(
        "not written into the metadata",
        "metadata_usage_hint metadata_thumbnail metadata_merged_from metadata_preprocessor "
        "metadata_is_negative_embedding",
        always,
    ),
    Group(
        "nothing is uploaded: upload the finished file yourself",
        "huggingface_repo_id huggingface_token save_state_to_huggingface",
    ),
    Group(
        "nothing is uploaded",
        "huggingface_repo_type huggingface_path_in_repo huggingface_repo_visibility async_upload",
        always,
    ),
    Group("a LoRA contains only the transformer's change", "save_clip save_t5xxl", always),
    Group(
        "pictures are drawn with the model's own solver, one at a time",
        "sample_sampler sample_batch_size controlnet_model_name_or_path",
        always,
    ),
    Group(
        "nothing is validated; sample_prompts shows what the student has learned",
        "validation_split validate_every_n_steps validate_every_n_epochs max_validation_steps",
    ),
    Group("nothing is validated", "validation_seed", always),
    Group(
        "the format of the logs is fixed",
        "log_prefix log_tracker_config log_config console_log_level console_log_file console_log_simple",
        always,
    ),
    # --- other kinds of run
    Group(
        "only for the toolkit's own command line",
        "config_file output_config debug_dataset show_timesteps",
    ),
    Group("inpainting models cannot be trained here", "train_inpainting"),
)

#: only a GUI reads these, or turns them into other keys before it trains
KOHYA_SS = """
LoRA_type LyCORIS_preset additional_parameters model_list sdxl flux1_checkbox sd3_checkbox save_as_bool file_path
noise_offset_type stop_text_encoder_training stop_text_encoder_training_pct lora_network_weights no_token_padding
conv_dim conv_alpha conv_dims conv_alphas conv_block_dims conv_block_alphas block_dims block_alphas
block_lr_zero_threshold down_lr_weight mid_lr_weight up_lr_weight factor bypass_mode dora_wd use_cp use_tucker
use_scalar rank_dropout rank_dropout_scale module_dropout constrain rescaled train_norm decompose_both train_on_input
unit loraplus_lr_ratio loraplus_text_encoder_lr_ratio loraplus_unet_lr_ratio train_lora_ggpo ggpo_sigma ggpo_beta
t5xxl_lr mem_eff_save split_qkv train_t5xxl train_blocks enable_all_linear single_blocks_to_swap double_blocks_to_swap
img_attn_dim img_mlp_dim img_mod_dim single_dim txt_attn_dim txt_mlp_dim txt_mod_dim single_mod_dim in_dims
train_double_block_indices train_single_block_indices lowvram num_cpu_threads_per_process num_processes num_machines
multi_gpu gpu_ids main_process_port dynamo_mode dynamo_use_fullgraph dynamo_use_dynamic extra_accelerate_launch_args
"""
LORA_SCRIPTS = """
model_train_type lycoris_algo lokr_factor dylora_unit enable_base_weight enable_block_weights
network_args_custom optimizer_args_custom prodigy_d0 prodigy_d_coef enable_preview randomly_choice_prompt
positive_prompts negative_prompts sample_width sample_height sample_cfg sample_seed sample_steps ui_custom_params
cfg_trunc renorm_cfg
"""
GUI_NAMES = frozenset((KOHYA_SS + LORA_SCRIPTS).split())
#: the beginning of kohya_ss' keys for one family
GUI_PREFIXES = ("sdxl_", "flux1_", "sd3_", "hunyuan_", "anima_", "lumina_")

#: sections of other programs' TOML files, which contain the same flat keys
FOREIGN_SECTIONS = ("additional_network", "sample_prompt", "others", "data", "general")
FOREIGN_ENDING = "_arguments"

FOREIGN_KEYS = {name: group for group in GROUPS for name in group.names.split()}


def is_gui_key(name: str) -> bool:
    """Return whether only a GUI uses this key."""
    return name in GUI_NAMES or name.startswith(GUI_PREFIXES)
