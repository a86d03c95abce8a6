"""A name that is too long for a file is not there; nobody stumbles over what the system says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.preflight import check_paths
from danceopd_ext.toolkits.hosted.weights_header import read_header


@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_the_header_of_a_name_that_is_too_long(suffix):
    with pytest.raises(UserError):
        read_header(Path("a" * 300 + suffix))


def test_a_model_of_another_format_is_left_to_the_toolkit():
    assert read_header(Path("a" * 300), others=True) is None


def test_paths_of_a_dataset_that_are_too_long():
    with pytest.raises(UserError, match="there is no such file or folder"):
        check_paths("data.toml", {"image_dir": "a" * 300}, ("image_dir",))
