"""Which parts of a prompt are the syntax of an image UI, and which look like it and are not."""

from __future__ import annotations

import time

import pytest

from danceopd_ext.data.ui_syntax import settings_lines, syntax_notes


def found(text, wildcards=False):
    """The names of the syntax that is told."""
    notes = syntax_notes("p.txt", [("line 1", text)], wildcards)
    return (
        [part.split(" (line 1)")[0] for part in notes[0].split(" words. ")[1].split("; ") if "(line 1)" in part]
        if notes
        else []
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1girl, (masterpiece:1.2), sky", ["(word:1.2)"]),
        ("(word:2), (a b : 1.1), (blue hair:-0.5), (score_9:1.1)", ["(word:1.2)"]),
        ("(((best quality)))", ["((word))"]),
        ("a <lora:style A:0.8> cat", ["<lora:...>"]),
        ("<LYCO:x:1:0.5>", ["<lora:...>"]),
        ("embedding:foo, a cat", ["embedding:NAME"]),
        ("a cat BREAK a dog", ["BREAK"]),
        ("a cat, BREAK, a dog", ["BREAK"]),
        ("a cat AND a dog", ["AND"]),
        ("a [cat:dog:0.5]", ["[word]"]),
        ("[trigger] in the rain", ["[word]"]),
        ("a __hair/color__ cat", ["__wildcard__"]),
        ("a {red|blue} cat", ["{a|b}"]),
    ],
)
def test_the_syntax_of_uis_is_found(text, names):
    assert found(text) == names


@pytest.mark.parametrize(
    "text",
    [
        "a cat (a red one) on a wall",
        "the train (12:30) leaves",
        "a screen (16:9), (John 3:16) on it",
        r"hatsune miku \(append\), kiss \(band\)",
        r"\[artist\] \(name:1.2\)",
        "a footnote [1]",
        "CATS AND DOGS on a sign, COFFEE BREAK below",
        "a break and a breakdance",
        "snake_case and __dunder",
        "{one}, {{braces}}",
        "Embedding: a photo; x < y > z",
    ],
)
def test_plain_text_is_not_taken_for_syntax(text):
    assert found(text) == []


def test_choices_are_a_syntax_of_their_own_where_wildcards_are_on():
    assert found("a {red|blue} cat", wildcards=True) == []


def test_settings_are_known_by_their_first_word():
    lines = [
        "a cat",
        "negative prompt: x",
        "y",
        "Steps: 4, Seed: 1",
        "a dog",
        "Steps: 4, Sampler: x",
        "Negative prompt: z",
    ]
    assert settings_lines(lines) == [1, 2, 3, 5, 6]
    assert settings_lines(["Steps to the sea", "a negative prompt", "Steps: many"]) == []


@pytest.mark.parametrize("part", ["(", "[a", "{a|", "<lora:", "__a-", "((a ", "(a:1", "' ", "embedding:"])
def test_a_huge_prompt_takes_no_time(part):
    started = time.process_time()
    syntax_notes("p.txt", [("line 1", part * 100_000)])
    assert time.process_time() - started < 5
