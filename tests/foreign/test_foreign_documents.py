"""TOML and JSON become plain values within limits; anything else is a message that begins with where it stands."""

import pytest

from danceopd_ext.errors import LONGEST_LINE, UserError
from danceopd_ext.foreign import json as foreign_json
from danceopd_ext.foreign.files import MIB
from danceopd_ext.foreign.json import parse_json, parse_lines, parse_object, read_json, read_object
from danceopd_ext.foreign.limits import DEEPEST, LARGEST, SMALLEST
from danceopd_ext.foreign.toml import parse_toml, read_toml


def toml(text):
    return parse_toml(text, "a.toml")


def json(text):
    return parse_json(text, "a.json", "Write it anew.")


def refused(parse, text):
    with pytest.raises(UserError) as error:
        parse(text)
    message = str(error.value)
    assert message.startswith(f"a.{parse.__name__}: ") and len(message) <= LONGEST_LINE and "\n" not in message
    return message


def nested(levels, opening, closing):
    return opening * levels + "1" + closing * levels


@pytest.mark.parametrize("levels", [DEEPEST + 1, 1000, 50_000])
@pytest.mark.parametrize(
    ("parse", "start", "opening", "closing"),
    [
        (json, "", "[", "]"),
        (json, "", '{"a":', "}"),
        (toml, "a = ", "[", "]"),
        (toml, "a = ", "{a = ", "}"),
    ],
)
def test_nesting_has_a_limit(parse, start, opening, closing, levels):
    assert "nested" in refused(parse, start + nested(levels, opening, closing))


@pytest.mark.parametrize(
    ("parse", "start", "opening", "closing"),
    [(json, "", "[", "]"), (toml, "a = ", "[", "]"), (toml, "a = ", "{a=", "}")],
)
def test_a_hundred_levels_are_read(parse, start, opening, closing):
    value, levels = parse(start + nested(100, opening, closing)), 0
    while isinstance(value, list | dict):
        value, levels = (value[0] if isinstance(value, list) else value["a"]), levels + 1
    assert value == 1 and levels >= 100


@pytest.mark.parametrize("parts", [DEEPEST + 2, 200_000])
@pytest.mark.parametrize("form", ["a{} = 1", "[a{}]", "[[a{}]]", "x = {{ a{} = 1 }}", 'x = """"a""""\n"b\\"c"{} = 1'])
def test_a_key_of_very_many_parts_ends_at_once(form, parts):
    assert "parts separated by dots" in refused(toml, form.format(".a" * parts))


def test_dots_in_texts_and_comments_are_no_keys():
    dots = ".a" * 1000
    text = f'# {dots}\na = "{dots}"\nb = \'{dots}\'\nc = \'\'\'{dots}\n\'\'\'\nd = """{dots}""""\ne.f = [1.5, 2.5]'
    assert toml(text) == {"a": dots, "b": dots, "c": f"{dots}\n", "d": f'{dots}"', "e": {"f": [1.5, 2.5]}}


@pytest.mark.parametrize("text", ['a = "' + '\\"' * 200_000, 'a = """' + '"" ' * 100_000, "a = '''" + "'' " * 100_000])
def test_a_text_without_an_end_ends_at_once(text):
    assert "not valid TOML" in refused(toml, text)


def test_a_number_of_thousands_of_digits_is_told_in_plain_words():
    digits = "1" * 5000
    assert "a number has thousands of digits" in refused(json, f'{{"a": {digits}}}')
    assert "a number has thousands of digits" in refused(toml, f"a = {digits}")
    assert "whole number of more than 64 bits" in refused(toml, f"a = 0x{'f' * 100_000}")


@pytest.mark.parametrize("number", [2**70, LARGEST + 1, SMALLEST - 1])
def test_whole_numbers_have_64_bits(number):
    assert "b[1].c is a whole number of more than 64 bits" in refused(json, f'{{"b": [0, {{"c": {number}}}]}}')
    assert "s.b[1].c is a whole number of more than 64 bits" in refused(toml, f"[s]\nb = [0, {{c = {number}}}]")


@pytest.mark.parametrize("number", [LARGEST, SMALLEST, 2**53 + 1])
def test_whole_numbers_of_64_bits_are_exact(number):
    assert json(f"[{number}]") == [number]
    assert toml(f"a = {number}") == {"a": number}


@pytest.mark.parametrize("text", ["1e400", "-1e400", "NaN", "Infinity", "-Infinity"])
def test_numbers_of_json_are_finite(text):
    assert "a[0] = " in refused(json, f'{{"a": [{text}]}}')
    assert isinstance(parse_json(text, "a log", finite=False), float)


@pytest.mark.parametrize("text", ["1e400", "-1e400", "nan", "+inf", "-inf"])
def test_numbers_of_toml_are_finite(text):
    assert "s.a[0] = " in refused(toml, f"[s]\na = [{text}]")


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (json, r'{"a": "x\ud800"}'),
        (json, r'{"a\udfff": 1}'),
        (json, r'["\u0000"]'),
        (toml, r'a = "x\u0000"'),
        (toml, r'"a\u0000" = 1'),
    ],
)
def test_texts_hold_whole_characters_only(parse, text):
    assert "remove it" in refused(parse, text)


def test_a_pair_of_surrogates_is_a_character():
    assert json(r'"\ud83d\ude00 and \u2028"') == "\U0001f600 and \u2028"


def test_of_a_key_that_is_given_twice_the_last_counts():
    assert json('{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize("text", ["[]", "[{}]", "5", "null", "true", '"a"', f'"{"x" * 5000}"', f"[{'1,' * 5000}1]"])
def test_another_value_than_an_object_is_shown(text):
    with pytest.raises(UserError, match=r"^a\.json: expected a JSON object, .* but it holds .*\. Write it anew\.$"):
        parse_object(text, "a.json", "Write it anew.")


def test_the_remedy_stands_behind_and_a_better_one_instead():
    assert refused(json, '{"a" 1}').endswith("Write it anew.")
    assert refused(json, r'{"a": "C:\images"}').endswith('"C:/images/1.png".')
    assert "'C:\\folder\\file'" in refused(toml, r'a = "C:\users"')


def test_lines_of_json_are_told_by_their_number():
    text = '{"a": 1}\n\n[\u20282]\n'.replace("[\u2028", '["\u2028",')
    assert list(parse_lines(text, "a.jsonl")) == [("a.jsonl, line 1", {"a": 1}), ("a.jsonl, line 3", ["\u2028", 2])]
    with pytest.raises(UserError, match=r"^a\.jsonl, line 2: not valid JSON"):
        list(parse_lines("1\n{", "a.jsonl"))


def test_files_are_read_within_their_size(tmp_path, monkeypatch):
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert (
        read_toml(tmp_path / "a.toml") == read_json(tmp_path / "a.json") == read_object(tmp_path / "a.json") == {"a": 1}
    )
    (tmp_path / "a.toml").write_text("#" * (MIB + 1), encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.toml: the TOML file has 1\.0 MiB"):
        read_toml(tmp_path / "a.toml")
    with pytest.raises(UserError, match=r"a\.json: the JSON file has"):
        read_json(tmp_path / "a.json", most=3)
    assert foreign_json.MOST == 64 * MIB
