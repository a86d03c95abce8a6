"""What makes no sense with the method is refused with its reason; what is only of use passes."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted import argument_rules as module
from danceopd_ext.toolkits.hosted.argument_rules import Rule, changed, entry, one_of, other_than, refuse, rules
from danceopd_ext.toolkits.hosted.arguments import Arguments
from danceopd_ext.toolkits.musubi.argument_rules import RULES as MUSUBI
from danceopd_ext.toolkits.sd_scripts.argument_rules import RULES as SD_SCRIPTS
from danceopd_ext.toolkits.sd_scripts.registry import ARCHITECTURES


def arguments(defaults=None, **given) -> Arguments:
    defaults = dict.fromkeys(given) | (defaults or {})
    written = {name: f"{name} = {value}" for name, value in given.items()}
    return Arguments(argparse.Namespace(**(defaults | given)), written, defaults, Path("p.toml"))


def refused(rule: Rule, default, value) -> bool:
    try:
        refuse(arguments({rule.key: default}, **{rule.key: value}), [rule])
    except UserError:
        return True
    return False


@pytest.mark.parametrize(
    ("wrong", "default", "good", "bad"),
    [
        (module.switched_on, False, [False, 0, 0.0, [], [0.0, 0], None], [True, 0.1, "a", [0.0, 1e-4]]),
        (module.switched_off, False, [True], [False]),
        (changed, 0.3, [0.3], [0.1, None]),
        (other_than("l2"), "l2", ["l2"], ["l1", "huber"]),
        (one_of("sage"), "torch", ["torch", "flash"], ["sage"]),
        (entry("a=true"), None, [None, [], ["a=false", "b=true"]], [["b=1", "a=True"], ["a = true"]]),
    ],
)
def test_which_values_are_refused(wrong, default, good, bad):
    rule = Rule("key", wrong, "reason.")
    assert [refused(rule, default, value) for value in good] == [False] * len(good)
    assert [refused(rule, default, value) for value in bad] == [True] * len(bad)


def test_only_what_was_given_is_refused():
    """A toolkit's own default may be one that we would not take."""
    rule = Rule("key", other_than("raw"), "reason.")
    refuse(Arguments(argparse.Namespace(key="sigma"), {}, {"key": "sigma"}, Path("p.toml")), [rule])
    assert refused(rule, "sigma", "sigma")


def test_keys_that_a_parser_lacks():
    refuse(arguments(other=1), [Rule("key", module.switched_on, "reason.")])


def test_a_rule_that_needs_another_argument():
    rule = Rule("fp8", module.switched_on, "reason.", "remedy.", beside="merge")
    refuse(arguments(fp8=True), [rule])
    refuse(arguments(fp8=True, merge=[]), [rule])
    refuse(arguments(fp8=False, merge=["a"]), [rule])
    with pytest.raises(UserError, match=r"p.toml: fp8 = True: reason. remedy."):
        refuse(arguments(fp8=True, merge=["a"]), [rule])


def test_one_message_for_one():
    with pytest.raises(UserError) as error:
        refuse(arguments(b=2), rules("a b", module.switched_on, "it is so.", "Change it."))
    assert str(error.value) == "p.toml: b = 2: it is so. Change it."


def test_one_message_for_all_with_each_reason_once():
    table = (*rules("a b", module.switched_on, "it is so."), Rule("c", module.switched_on, "it is not."))
    with pytest.raises(UserError) as error:
        refuse(arguments(a=1, b=2, c=3), table)
    assert str(error.value).splitlines() == [
        "p.toml: this method does not support these arguments.",
        "- a = 1, b = 2: it is so. Remove it.",
        "- c = 3: it is not. Remove it.",
    ]


# --- the tables

#: argument -> (a default, a value that is refused)
WRONG_SD_SCRIPTS = {
    "network_train_text_encoder_only": (False, True),
    "text_encoder_lr": (None, [1e-4]),
    "network_train_unet_only": (False, False),
    "network_args": (None, ["train_t5xxl=True"]),
    "weighted_captions": (False, True),
    "masked_loss": (False, True),
    "alpha_mask": (False, True),
    "reg_data_dir": (None, "reg"),
    "debug_dataset": (False, True),
    "train_inpainting": (False, True),
    "show_timesteps": (None, "image"),
    "loss_type": ("l2", "huber"),
    "huber_schedule": ("snr", "constant"),
    "huber_c": (0.1, 0.2),
    "huber_scale": (1.0, 2.0),
    "prior_loss_weight": (1.0, 0.5),
    "min_snr_gamma": (None, 5.0),
    "v_pred_like_loss": (None, 1.0),
    "debiased_estimation_loss": (False, True),
    "scale_v_pred_loss_like_noise_pred": (False, True),
    "v_parameterization": (False, True),
    "zero_terminal_snr": (False, True),
    "v2": (False, True),
    "noise_offset": (None, 0.05),
    "noise_offset_random_strength": (False, True),
    "adaptive_noise_scale": (None, 0.1),
    "multires_noise_iterations": (None, 6),
    "multires_noise_discount": (0.3, 0.8),
    "ip_noise_gamma": (None, 0.1),
    "ip_noise_gamma_random_strength": (False, True),
    "weighting_scheme": ("uniform", "logit_normal"),
    "min_timestep": (None, 100),
    "max_timestep": (None, 900),
    "logit_mean": (0.0, 1.0),
    "logit_std": (1.0, 2.0),
    "mode_scale": (1.29, 1.0),
    "timestep_sampling": ("sigma", "shift"),
    "sigmoid_scale": (1.0, 2.0),
    "training_shift": (1.0, 3.0),
    "discrete_flow_shift": (3.0, 6.0),
    "model_prediction_type": ("sigma_scaled", "additive"),
    "pos_emb_random_crop_rate": (0.0, 0.5),
    "use_sage_attn": (False, True),
    "attn_mode": (None, "sageattn"),
    "deepspeed": (False, True),
}
WRONG_MUSUBI = {
    "timestep_sampling": ("sigma", "shift"),
    "sigmoid_scale": (1.0, 2.0),
    "logit_mean": (0.0, 1.0),
    "logit_std": (1.0, 2.0),
    "mode_scale": (1.29, 1.0),
    "weighting_scheme": ("none", "logit_normal"),
    "min_timestep": (None, 100),
    "max_timestep": (None, 900),
    "preserve_distribution_shape": (False, True),
    "num_timestep_buckets": (None, 8),
    "show_timesteps": (None, "image"),
    "sage_attn": (False, True),
    "remove_first_image_from_target": (False, True),
    "dim_from_weights": (False, True),
}
TABLES = [(SD_SCRIPTS, WRONG_SD_SCRIPTS), (MUSUBI, WRONG_MUSUBI)]


@pytest.mark.parametrize(("table", "wrong"), TABLES, ids=["sd-scripts", "musubi-tuner"])
def test_every_rule_refuses_and_lets_the_harmless_value_pass(table, wrong):
    alone = [rule for rule in table if rule.beside is None and rule.without is None]
    assert {rule.key for rule in alone} == set(wrong)
    for rule in alone:
        default, bad = wrong[rule.key]
        assert refused(rule, default, bad), rule.key
        harmless = {"network_train_unet_only": True, "model_prediction_type": "raw", "attn_mode": "torch"}
        harmless |= {"min_timestep": 0, "max_timestep": 1000}
        assert not refused(rule, default, harmless.get(rule.key, default)), rule.key


@pytest.mark.parametrize("table", [SD_SCRIPTS, MUSUBI], ids=["sd-scripts", "musubi-tuner"])
def test_scaled_fp8_with_merged_weights(table):
    refuse(arguments(fp8_base=True, fp8_scaled=True, base_weights=None), table)
    refuse(arguments(base_weights=["a"]), table)
    with pytest.raises(UserError, match="without their scale"):
        refuse(arguments(fp8_base=True, fp8_scaled=True, base_weights=["a"]), table)


def test_musubi_scales_only_a_model_in_fp8():
    with pytest.raises(
        UserError, match=r"fp8_scaled = True: it only applies to a model in fp8\. Write fp8_base = true as well\."
    ):
        refuse(arguments(fp8_scaled=True), MUSUBI)
    refuse(arguments(fp8_scaled=True, fp8_base=True), MUSUBI)
    refuse(arguments(fp8_scaled=False), MUSUBI)


@pytest.mark.parametrize("model_type", ["anima", "hunyuan_image"])
def test_fp8_that_a_trainer_ignores_is_refused(model_type):
    with pytest.raises(UserError, match="fp8_base = True: sd-scripts ignores it for this model"):
        refuse(arguments(fp8_base=True), ARCHITECTURES[model_type].refused)
    assert ARCHITECTURES["flux"].refused == ()


def test_only_musubis_sampler_reads_a_shift():
    refuse(arguments(discrete_flow_shift=3.0), MUSUBI)
    with pytest.raises(UserError, match="its own shift"):
        refuse(arguments(discrete_flow_shift=3.0), SD_SCRIPTS)


@pytest.mark.parametrize("table", [SD_SCRIPTS, MUSUBI], ids=["sd-scripts", "musubi-tuner"])
def test_reasons_and_remedies_are_sentences(table):
    for rule in table:
        assert rule.reason.endswith(".") and rule.remedy.rstrip(")").endswith("."), rule.key
        assert rule.remedy[0].isupper(), rule.key


@pytest.mark.parametrize("table", [SD_SCRIPTS, MUSUBI], ids=["sd-scripts", "musubi-tuner"])
def test_useful_options_pass(table):
    useful = {
        "fp8_base": True, "blocks_to_swap": 8, "gradient_checkpointing": True, "compile": True, "torch_compile": True,
        "sample_prompts": "a.txt", "sample_every_n_steps": 10, "save_every_n_steps": 10, "save_state": True,
        "optimizer_type": "Prodigy", "optimizer_args": ["a=1"], "lr_scheduler": "cosine", "lr_warmup_steps": 10,
        "max_grad_norm": 0.5, "network_dropout": 0.1, "scale_weight_norms": 1.0, "log_with": "wandb",
        "network_args": ["loraplus_lr_ratio=4"], "base_weights": ["a"], "fp8_scaled": False,
        "cache_text_encoder_outputs": True, "cache_latents": True, "sdpa": True, "full_bf16": True,
        "guidance_scale": 1.0, "caption_dropout_rate": 0.1,
    }  # fmt: skip
    refuse(arguments(**useful), table)
