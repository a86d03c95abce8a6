"""A family's words stand in its own file, a toolkit's in its row: nothing else of the package spells them out."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import danceopd_ext
from danceopd_ext.config.toolkits import NATIVE, TOOLKITS, hosted_toolkits
from danceopd_ext.models.registry import CLASSES, FAMILIES

PACKAGE = Path(danceopd_ext.__file__).parent
#: describe models, or choose one to run
OF_MODELS = ("models/", "config/toolkits.py", "toolkits/sd_scripts/adapters/", "toolkits/musubi/adapters/")
CHOOSE = ("demo/", "benchmark/", "reproduce/")
#: in models/, what is there for all families
SHARED = ("configuration", "decoding", "family", "layer_names", "layout", "loading", "model_folder", "limited_process")


@cache
def texts(file: Path) -> list[tuple[int, str]]:
    """Line and text of each string in the file that is not a docstring; pieces of f-strings too."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in alone]
    return [(node.lineno, node.value) for node in found if isinstance(node.value, str)]


def spelled(words: set[str], *apart: str, inside: bool = False) -> list[str]:
    """Places outside of `apart` (beginnings of paths) where a string is one of the words, or has one inside."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE).as_posix()
        if not path.startswith(apart):
            for line, text in texts(file):
                if text in words or (inside and any(word in text for word in words)):
                    found.append(f"{path}:{line}: {text[:80]}")
    return found


def test_model_types_stand_in_the_registry_and_in_rows():
    assert not spelled({name for toolkit in TOOLKITS.values() for name in toolkit.models}, *OF_MODELS, *CHOOSE)


def test_other_words_for_models_stand_in_the_families_and_rows():
    words = {word for family in FAMILIES.values() for word in family.other_words}
    assert not spelled(words | {word for row in TOOLKITS.values() for word in row.other_words}, *OF_MODELS, *CHOOSE)


def test_titles_and_signs_of_files_stand_in_the_families():
    own = {family.title for family in FAMILIES.values()} | {family.file_title for family in FAMILIES.values()}
    signs = {
        sign for family in FAMILIES.values() for sign in (family.sign, family.shared_sign, *family.checkpoint_marks)
    }
    assert not spelled(signs - {""}, *OF_MODELS, *CHOOSE)
    assert not spelled(own - {""}, *OF_MODELS, *CHOOSE, inside=True)


@pytest.mark.parametrize("module", SHARED)
def test_what_all_families_share_names_none(module):
    titles = {family.title for family in FAMILIES.values()} | {family.pipeline_class for family in FAMILIES.values()}
    words = titles | set(CLASSES) | {family.transformer_class for family in FAMILIES.values()}
    assert not [text for _, text in texts(PACKAGE / "models" / f"{module}.py") if any(word in text for word in words)]


def test_toolkits_are_named_in_their_rows():
    row = "config/toolkits.py"
    assert not spelled(set(hosted_toolkits()), row)
    facts = {row.checkout.variable for row in hosted_toolkits().values()}
    facts |= {mark for row in hosted_toolkits().values() for mark in row.checkout.marks}
    assert not spelled(facts, row, inside=True)
    assert not spelled(
        {NATIVE.name}, row, "lora/", "models/", "toolkits/hosted/teacher_files.py"
    )  # a kind of layer names


def test_code_that_toolkits_share_asks_the_rows():
    for name, toolkit in hosted_toolkits().items():
        own = f"toolkits/{toolkit.package.rpartition('.')[2]}/"
        assert not spelled({f'toolkit = "{name}"'}, own, "config/toolkits.py", inside=True)
