"""Every rule by which a caption is drawn. The meaning is that of sd-scripts' process_caption."""

import random
from collections import Counter

import pytest

from danceopd_ext.data.captions import caption_is_fixed, draw_caption
from danceopd_ext.data.items import CaptionRules, Item


def draw(text: str, seed: int = 0, epoch: int = 1, **rules) -> str:
    return draw_caption(Item(text, 8, 8, CaptionRules(**rules)), random.Random(seed), epoch)


def draws(text: str, count: int = 400, **rules) -> Counter:
    return Counter(draw(text, seed, **rules) for seed in range(count))


def test_plain_caption_is_kept_as_it_is():
    assert draw("a cat,  on {a|b} mat") == "a cat,  on {a|b} mat"


def test_prefix_and_suffix_are_joined_with_a_blank():
    assert draw("a cat", caption_prefix="sks,", caption_suffix="at night") == "sks, a cat at night"


def test_prefix_of_an_empty_caption_keeps_the_blank():
    assert draw("", caption_prefix="sks") == "sks "


def test_without_wildcards_the_first_line_counts():
    assert draw("one\ntwo") == "one"


def test_with_wildcards_every_line_is_drawn_about_equally():
    found = draws("one\ntwo\nthree", 900, enable_wildcard=True)
    assert set(found) == {"one", "two", "three"}
    assert all(230 < count < 370 for count in found.values())


def test_wildcard_words_are_drawn_about_equally():
    found = draws("a {red|blue} hat", 1000, enable_wildcard=True)
    assert set(found) == {"a red hat", "a blue hat"}
    assert all(420 < count < 580 for count in found.values())


def test_two_wildcards_are_drawn_apart_and_double_braces_are_text():
    found = draws("{a|b} {c|d} {{e|f}}", enable_wildcard=True)
    assert set(found) == {"a c {e|f}", "a d {e|f}", "b c {e|f}", "b d {e|f}"}


def test_wildcards_work_in_the_prefix():
    assert set(draws("cat", enable_wildcard=True, caption_prefix="{big|small}")) == {"big cat", "small cat"}


def test_shuffle_gives_every_order_of_the_tags():
    found = draws("a, b,c", shuffle_caption=True)
    assert set(found) == {"a, b, c", "a, c, b", "b, a, c", "b, c, a", "c, a, b", "c, b, a"}


def test_keep_tokens_stay_in_front():
    assert set(draws("k, a, b", shuffle_caption=True, keep_tokens=1)) == {"k, a, b", "k, b, a"}


def test_prefix_counts_as_a_kept_token():
    found = draws("a, b", shuffle_caption=True, keep_tokens=1, caption_prefix="trigger,")
    assert set(found) == {"trigger, a, b", "trigger, b, a"}


def test_keep_tokens_separator_keeps_front_and_end():
    found = draws("k1, k2 ||| a, b ||| e1, e2", shuffle_caption=True, keep_tokens_separator="|||")
    assert set(found) == {"k1, k2, a, b, e1, e2", "k1, k2, b, a, e1, e2"}


def test_keep_tokens_separator_needs_shuffling_to_count():
    assert draw("k ||| a", keep_tokens_separator="|||") == "k ||| a"


def test_caption_separator_splits_and_a_comma_joins():
    assert set(draws("a, b; c", shuffle_caption=True, caption_separator=";")) == {"a, b, c", "c, a, b"}


def test_secondary_separator_holds_tags_together():
    found = draws("sky;;;cloud, b", shuffle_caption=True, secondary_separator=";;;")
    assert set(found) == {"sky,cloud, b", "b, sky,cloud"}


def test_dropout_rate_is_the_share_of_empty_captions():
    found = draws("a cat", 2000, caption_dropout_rate=0.25)
    assert set(found) == {"", "a cat"}
    assert 430 < found[""] < 570


def test_dropout_of_one_drops_all_and_takes_the_prefix_with_it():
    assert set(draws("a cat", caption_dropout_rate=1, caption_prefix="sks")) == {""}


def test_dropout_every_n_epochs_drops_the_nth():
    found = [draw("a", epoch=epoch, caption_dropout_every_n_epochs=3) for epoch in range(1, 7)]
    assert found == ["a", "a", "", "a", "a", ""]


def test_tag_dropout_spares_kept_tokens():
    found = draws("k, a, b", 1000, caption_tag_dropout_rate=0.5, keep_tokens=1)
    assert set(found) == {"k", "k, a", "k, b", "k, a, b"}
    assert all(190 < count < 310 for count in found.values())


def test_same_generator_state_gives_the_same_caption():
    rules = {"shuffle_caption": True, "enable_wildcard": True, "caption_tag_dropout_rate": 0.2}
    assert draw("{a|b}, c, d, e", 5, **rules) == draw("{a|b}, c, d, e", 5, **rules)


# Drawn once by sd-scripts' own process_caption with random.seed(s): the same order of random numbers, the same caption.
@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, "sks, d, c, b, green hat, end"),
        (1, ""),
        (2, "sks, c, b, d, red hat, end"),
        (3, "sks, blue hat, b, end"),
        (4, "sks, b, d, end"),
        (5, "sks, b, blue hat, d, end"),
    ],
)
def test_captions_of_the_real_toolkit(seed, expected):
    rules = {
        "caption_prefix": "sks |||",
        "caption_suffix": "||| end",
        "keep_tokens_separator": "|||",
        "shuffle_caption": True,
        "enable_wildcard": True,
        "caption_dropout_rate": 0.2,
        "caption_tag_dropout_rate": 0.2,
    }
    assert draw("{red|green|blue} hat, b, c, d", seed, **rules) == expected


@pytest.mark.parametrize(
    ("text", "rules", "fixed"),
    [
        ("a, b", {}, True),
        ("a {b|c}", {}, True),
        ("a {b|c}", {"enable_wildcard": True}, False),
        ("a\nb", {"enable_wildcard": True}, False),
        ("a", {"enable_wildcard": True}, True),
        ("a", {"shuffle_caption": True}, False),
        ("a", {"caption_dropout_rate": 0.1}, False),
        ("a", {"caption_tag_dropout_rate": 0.1}, False),
        ("a", {"caption_dropout_every_n_epochs": 2}, True),
    ],
)
def test_fixed_captions_are_told_from_drawn_ones(text, rules, fixed):
    assert caption_is_fixed(Item(text, 8, 8, CaptionRules(**rules))) is fixed
