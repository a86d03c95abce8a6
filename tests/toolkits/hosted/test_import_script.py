import sys

import pytest

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.checkout import Checkout
from danceopd_ext.toolkits.hosted.import_script import import_script


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Write a script of this text into a checkout and import it."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def load(text: str, name: str = "a_training_script"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return import_script(Checkout(tmp_path, "1", True, "sd-scripts"), [tmp_path], name)

    yield load
    sys.modules.pop("a_training_script", None)


def test_the_checkout_comes_before_any_other_installation(script, tmp_path):
    sys.path.append(str(tmp_path))
    assert script("answer = 42").answer == 42
    assert sys.path[0] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


def test_the_first_folder_wins(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "which_folder.py").write_text(f"name = {folder!r}", encoding="utf-8")
    checkout = Checkout(tmp_path, "1", True, "musubi-tuner")
    try:
        assert import_script(checkout, [tmp_path / "one", tmp_path / "two"], "which_folder").name == "one"
    finally:
        sys.modules.pop("which_folder")


def test_a_missing_package_is_named(script, tmp_path):
    with pytest.raises(UserError, match="No module named 'no_such_package'") as caught:
        script("import no_such_package")
    assert str(tmp_path) in str(caught.value) and "in the Python environment of sd-scripts" in str(caught.value)


def test_packages_that_do_not_fit_each_other_are_told_in_one_line(script):
    text = 'raise RuntimeError("operator torchvision::nms does not exist\\nmore lines")'
    with pytest.raises(UserError, match="torchvision::nms does not exist") as caught:
        script(text)
    assert "does not match its torch" in str(caught.value) and "more lines" not in str(caught.value)
