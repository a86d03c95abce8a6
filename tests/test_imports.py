"""Imports of the package run one way and never in a circle, those in functions and for types alone included."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import danceopd_ext

PACKAGE = Path(danceopd_ext.__file__).parent
MODULES = {
    ".".join(("danceopd_ext", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}
#: rooms of the package, the lowest first; what stands beside them in one file (errors, files, ...) is below them all
ROOMS = (
    ("foreign", "method"),
    ("models", "lora", "data", "config"),
    ("engine",),
    ("planning",),
    ("toolkits", "evaluation", "demo"),
    ("cli", "__main__"),
    ("benchmark", "reproduce"),
)
HEIGHTS = {room: height for height, rooms in enumerate(ROOMS, start=1) for room in rooms}


@cache
def imports_of(module: str) -> frozenset[str]:
    """The modules of the package that this one imports anywhere in its file."""
    file = MODULES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None]
            origin = ".".join([*above * bool(node.level), *([node.module] if node.module else [])])
            found.update(name if (name := f"{origin}.{alias.name}") in MODULES else origin for alias in node.names)
    return frozenset(name for name in found if name in MODULES and name != module)


def room_of(module: str) -> str:
    """The first name below the package; "" for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def test_the_modules_and_their_imports_are_found():
    assert "danceopd_ext.models.registry" in imports_of("danceopd_ext.lora.families")
    assert "danceopd_ext.models.family" in imports_of("danceopd_ext.models.registry")  # for types alone
    assert set(HEIGHTS) <= {room_of(module) for module in MODULES}
    folders = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()}
    assert folders <= set(HEIGHTS), "a room that is new here: say how high it stands"


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_upward(module):
    own = HEIGHTS.get(room_of(module), 0)
    upward = [name for name in imports_of(module) if room_of(name) and HEIGHTS.get(room_of(name), 0) > own]
    assert not upward


def test_the_method_knows_nothing_else_of_ours():
    for module in MODULES:
        if room_of(module) == "method":
            assert {room_of(name) for name in imports_of(module)} <= {"method"}, module


def test_no_imports_make_a_circle():
    # a package is imported before what is in it, whoever asks; that it imports its own parts makes no circle
    graph = {module: {name for name in imports_of(module) if not name.startswith(f"{module}.")} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_toolkits_know_the_native_trainer():
    for module in MODULES:
        if room_of(module) != "toolkits":
            assert not any(name.startswith("danceopd_ext.toolkits.native") for name in imports_of(module)), module
