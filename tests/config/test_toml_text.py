"""Values that we write into TOML files come back as they were, from both parsers that read them."""

from __future__ import annotations

import sys

import pytest
import toml

from danceopd_ext.config.toml_text import toml_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VALUES = [
    "C:/Users/O'Brien/a \"b\".png", r"C:\new\table", "été 猫", "😀", "two\nlines\tand\x07", 3, 6e-3, 1e-05, True, False,
    ["betas=0.9,0.98", "O'Brien"],
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("parser", [toml, tomllib])
def test_a_value_comes_back(value, parser):
    found = parser.loads(f"key = {toml_text(value)}\n")["key"]
    assert (found, type(found)) == (value, type(value))


def test_the_last_control_character_is_one_for_toml():
    assert tomllib.loads(f"key = {toml_text(chr(127))}\n") == {"key": chr(127)}
