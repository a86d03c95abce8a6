"""Only the command line can allow code to run that is not installed."""

from __future__ import annotations

import pytest

from danceopd_ext.config import load_preset
from danceopd_ext.config.hosted_preset import split_preset
from danceopd_ext.errors import UserError

NATIVE = '[model]\npretrained_model_name_or_path = "x"\n[danceopd.teachers.base]\n'
HOSTED = '[danceopd]\ntoolkit = "sd-scripts"\n[danceopd.teachers.base]\n'


@pytest.fixture
def written(tmp_path):
    def written(text: str):
        path = tmp_path / "preset.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


@pytest.mark.parametrize(
    ("words", "allowed"), [(None, False), ([], True), (["true"], True), (["True"], True), (["false"], False)]
)
def test_the_flag(written, words, allowed):
    flags = {} if words is None else {"allow_local_code": words}
    assert load_preset(written(NATIVE), flags).allow_local_code is allowed
    hosted = split_preset(written(HOSTED), flags)
    assert hosted.allow_local_code is allowed
    assert "allow_local_code" not in hosted.flags, "the toolkit has no such argument"


def test_a_wrong_value_is_told(written):
    for read, text in ((load_preset, NATIVE), (split_preset, HOSTED)):
        with pytest.raises(UserError, match="--allow_local_code yes please: this flag takes no value"):
            read(written(text), {"allow_local_code": ["yes", "please"]})


PLACES = ("{line}\n{text}", "[training]\n{line}\n{text}", "[saving]\n{line}\n{text}")


@pytest.mark.parametrize("value", ["true", "false", "'x'"])
@pytest.mark.parametrize(
    ("read", "text", "place"),
    [
        *((load_preset, NATIVE, place) for place in PLACES),
        *((split_preset, HOSTED, place) for place in (*PLACES, "[any_section]\n{line}\n{text}")),
    ],
)
def test_a_preset_cannot_say_it(written, read, text, place, value):
    with pytest.raises(UserError, match=r"allow_local_code cannot be set in a preset.*command line"):
        read(written(place.format(line=f"allow_local_code = {value}", text=text)), {"allow_local_code": []})


def test_a_slip_of_the_flag_is_answered(written):
    with pytest.raises(UserError, match='Did you mean "allow_local_code"'):
        load_preset(written(NATIVE), {"allow_local_cod": []})
