"""Lists the arguments of sd-scripts that this method does not support (see toolkits/hosted/argument_rules.py)."""

from __future__ import annotations

from danceopd_ext.toolkits.hosted.argument_rules import (
    QUERY_DECIDES,
    SCALED_BASE_WEIGHTS,
    SHOWS_TIMESTEPS,
    Rule,
    changed,
    entry,
    one_of,
    other_than,
    rules,
    switched_off,
    switched_on,
    timestep_range,
)

ONLY_TRANSFORMER = "the student is a LoRA of the transformer; text encoders are not trained."
PLAIN_LOSS = "the loss is the plain mean squared error of two velocities; it has no weights."
NO_PICTURES = "the student learns from its teachers, not from the pictures of a dataset."
OWN_NOISE = "the student starts from plain noise, as it does when it draws a picture."
FLOW = "all models that this toolkit trains here are flow models."
SET_QUERY = "Remove it; query in [danceopd] sets the noise levels."
OWN_GRID = "the student takes the steps of the toolkit's own sampler, which has its own shift."

#: a reason for single models
NO_FP8 = "sd-scripts ignores it for this model."

RULES: tuple[Rule, ...] = (
    # the text encoders
    *rules("network_train_text_encoder_only text_encoder_lr", switched_on, ONLY_TRANSFORMER),
    *rules("network_train_unet_only", switched_off, ONLY_TRANSFORMER, "Remove it; it is always on."),
    *rules("network_args", entry("train_t5xxl=true"), ONLY_TRANSFORMER, "Remove train_t5xxl from it."),
    *rules("weighted_captions", switched_on, "the text encoders of flow models do not support weights in captions."),
    # the data
    *rules("masked_loss alpha_mask reg_data_dir", switched_on, NO_PICTURES),
    *rules("debug_dataset", switched_on, "the toolkit would show the dataset and stop without training."),
    *rules("train_inpainting", switched_on, "no picture is read, so there is nothing to mask."),
    # the loss
    *rules("loss_type", other_than("l2"), PLAIN_LOSS),
    *rules("huber_schedule huber_c huber_scale prior_loss_weight", changed, PLAIN_LOSS),
    *rules("min_snr_gamma v_pred_like_loss debiased_estimation_loss", switched_on, PLAIN_LOSS),
    *rules("scale_v_pred_loss_like_noise_pred", switched_on, PLAIN_LOSS),
    *rules("v_parameterization zero_terminal_snr v2", switched_on, FLOW),
    # the noise
    *rules("noise_offset noise_offset_random_strength adaptive_noise_scale", switched_on, OWN_NOISE),
    *rules("multires_noise_iterations ip_noise_gamma ip_noise_gamma_random_strength", switched_on, OWN_NOISE),
    *rules("multires_noise_discount", changed, OWN_NOISE),
    # the noise level
    *rules("weighting_scheme", other_than("none", "uniform"), QUERY_DECIDES, SET_QUERY),
    *timestep_range(SET_QUERY),
    *rules("logit_mean logit_std mode_scale timestep_sampling sigmoid_scale", changed, QUERY_DECIDES, SET_QUERY),
    *rules("training_shift", changed, QUERY_DECIDES, SET_QUERY),
    SHOWS_TIMESTEPS,
    *rules("discrete_flow_shift", changed, OWN_GRID),
    # the model
    *rules("model_prediction_type", other_than("raw"), "the method uses the model's output as the velocity."),
    *rules(
        "pos_emb_random_crop_rate",
        switched_on,
        "every forward pass would draw its own positions, so student and teacher would see different positions.",
    ),
    *rules("use_sage_attn", switched_on, "SageAttention has no backward pass."),
    *rules("attn_mode", one_of("sageattn"), "SageAttention has no backward pass.", 'Use attn_mode = "torch".'),
    *rules(
        "deepspeed",
        switched_on,
        "its engine expects one forward pass for each backward pass, and this method makes several.",
    ),
    SCALED_BASE_WEIGHTS,
)
