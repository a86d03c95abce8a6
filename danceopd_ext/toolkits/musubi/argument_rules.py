"""Lists the arguments of musubi-tuner that this method does not support (see toolkits/hosted/argument_rules.py)."""

from __future__ import annotations

from danceopd_ext.toolkits.hosted.argument_rules import (
    QUERY_DECIDES,
    SCALED_BASE_WEIGHTS,
    SHOWS_TIMESTEPS,
    Rule,
    changed,
    other_than,
    rules,
    switched_on,
    timestep_range,
)

SET_QUERY = "Remove it; query in [danceopd] sets the noise levels. (Keep discrete_flow_shift: the sampler uses it.)"

RULES: tuple[Rule, ...] = (
    # the noise level
    *rules("timestep_sampling sigmoid_scale logit_mean logit_std mode_scale", changed, QUERY_DECIDES, SET_QUERY),
    *rules("weighting_scheme", other_than("none"), QUERY_DECIDES, SET_QUERY),
    *timestep_range(SET_QUERY),
    *rules("preserve_distribution_shape num_timestep_buckets", switched_on, QUERY_DECIDES, SET_QUERY),
    SHOWS_TIMESTEPS,
    # the model
    *rules("sage_attn", switched_on, "SageAttention has no backward pass.", "Use sdpa = true."),
    *rules(
        "remove_first_image_from_target",
        switched_on,
        "the model would give a velocity for fewer layers than the student draws.",
    ),
    *rules(
        "dim_from_weights",
        switched_on,
        "the toolkit takes the value true for a file name and fails.",
        "Remove it; set network_dim and network_alpha to the values in network_weights.",
    ),
    Rule(
        "fp8_scaled",
        switched_on,
        "it only applies to a model in fp8.",
        "Write fp8_base = true as well.",
        without="fp8_base",
    ),
    Rule(
        "fp8_t5",
        switched_on,
        "musubi-tuner encodes the preview prompts with a number type that torch does not have, and fails.",
        "Remove it, or sample_prompts.",
        beside="sample_prompts",
    ),
    SCALED_BASE_WEIGHTS,
)
