"""Messages stay readable, whatever the user's values in them are."""

from __future__ import annotations

import time

import pytest

from danceopd_ext.errors import (
    LONGEST_LINE,
    LONGEST_TEXT,
    LONGEST_VALUE,
    TrainingError,
    UserError,
    counted,
    few,
    readable,
)

HUGE = 300_000


@pytest.mark.parametrize(
    "message",
    [
        'p.toml: unknown key "network_dim" in [network]. Did you mean "network_alpha"?',
        "C:\\models\\a.safetensors: the model's file isn't whole. Write 'single quotes' or sd-scripts' names.",
        "Größe 写真 👩‍👩‍👧: 1\N{NO-BREAK SPACE}024 Pixel.",
        "two lines:\n- one\n- two",
        ", ".join(f"key_{number}" for number in range(60)) + " are unknown.",
        "",
    ],
)
def test_a_message_of_usual_length_stays_as_it_is(message):
    assert readable(message) == message


@pytest.mark.parametrize("kind", [UserError, TrainingError])
@pytest.mark.parametrize(
    "value",
    ["x" * HUGE, "a cat " * (HUGE // 6), "a, " * (HUGE // 3), "a\n" * (HUGE // 2), "it's " * (HUGE // 5), '"' * HUGE],
)
@pytest.mark.parametrize("form", ['p.toml: key = "{}" is wrong: write 4.', "p.toml: {}: not found.", "p.toml, {!r}."])
def test_a_huge_value_is_cut_and_both_ends_of_the_message_stay(kind, value, form):
    started = time.process_time()
    message = str(kind(form.format(value)))
    assert len(message) <= LONGEST_TEXT
    assert max(map(len, message.split("\n"))) <= LONGEST_LINE
    assert message.startswith("p.toml")
    assert message.endswith(form.rpartition("}")[2])
    assert time.process_time() - started < 5, "cutting is slow"


def test_a_quoted_value_keeps_both_ends_and_says_how_much_is_missing():
    message = str(UserError(f'p.toml: key = "first {"word " * 1000}last" is wrong.'))
    value = message.partition('"')[2].rpartition('"')[0]
    assert len(value) <= LONGEST_VALUE
    assert value.startswith("first word")
    assert value.endswith("word last")
    assert "(5,010 characters)" in value


def test_of_a_long_list_the_first_names_and_their_number_stay():
    message = str(UserError(f"p.csv: no column prompt. Columns: {', '.join(f'column_{n}' for n in range(5000))}."))
    assert len(message) < 500
    assert "column_0, column_1, " in message
    assert "(4,979 more), column_4999." in message


def test_a_message_inside_another_is_not_cut_again():
    inner = str(UserError(f'"{"x" * HUGE}" is wrong.'))
    assert str(UserError(f"[danceopd.teachers.a]: {inner}")) == f"[danceopd.teachers.a]: {inner}"


def test_terminal_sequences_are_shown_and_not_carried_out():
    message = str(UserError("\x1b[2J\x07 is \u202egnp.exe\u202c, \ud800, and a\ttab\r"))
    assert message == "\\x1b[2J\\x07 is \\u202egnp.exe\\u202c, \\ud800, and a\\ttab\\r"
    message.encode("utf-8")


def test_a_line_break_inside_a_value_does_not_start_a_line_of_the_message():
    assert str(UserError('key = "a\nerror: b" is wrong.')) == 'key = "a\\nerror: b" is wrong.'


def test_a_few_names_and_how_many_more():
    assert few(["a", "b", "c"]) == "a, b, c"
    assert few("abcde") == "a, b, c and 2 more"
    assert [counted(number, "file") for number in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]
