"""The README cannot differ from the program."""

import re
from pathlib import Path

from danceopd_ext.config import load_preset
from danceopd_ext.config.explain import explain
from danceopd_ext.models.registry import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_preset_keys_are_those_of_the_schema():
    table = re.search(r"<!-- keys[^>]*-->\n(.*?)<!-- /keys -->", README, re.DOTALL)[1]
    assert table.strip() == explain().strip(), "run scripts/update_readme.py"


def test_the_preset_on_the_first_screen_is_a_good_one(tmp_path):
    text = re.search(r"```toml\n(\[model\].*?)```", README, re.DOTALL)[1]
    (tmp_path / "preset.toml").write_text(text, encoding="utf-8")
    preset = load_preset(tmp_path / "preset.toml")
    assert set(preset.danceopd.teachers) == {"base", "style", "character"} == set(preset.danceopd.prompts)


def test_links_lead_somewhere():
    places = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(places) > 8
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_every_family_says_what_the_readme_promises():
    for family in FAMILIES.values():
        assert family.default_format in ("kohya", "diffusers", "comfyui")
        assert family.title.split()[0] in README
