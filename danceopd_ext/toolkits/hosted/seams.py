"""Checks the seams between our code and a toolkit's, which differ between versions of the toolkit.

Signatures and returned tuples are compared before anything is loaded. A call of a seam is passed on unchanged, with
arguments that a version adds. An error at a seam is reported as a difference of versions.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.checkout import Checkout, tested_versions

#: our own code, and the part of it that calls the toolkits
OUR_CODE = Path(__file__).resolve().parents[2]
TOOLKIT_CODE = Path(__file__).resolve().parents[1]

#: what Python raises if a call, a name, an entry or a tuple is not as the caller expects
MISMATCH_ERRORS = (TypeError, AttributeError, ImportError, KeyError, ValueError)


class ToolkitChanged(Exception):
    """A part of the toolkit differs from all known versions; the text says which part and how."""


@dataclass(frozen=True)
class Call:
    """A function or class of the toolkit that we call.

    place: "module:name" or "module:Class.method". order: the first arguments, given by position (a method's own object
    is one of them); their names are compared, except an empty one. named: those given by keyword. known: those that
    only some versions take, and that they get (see `supported`). returns: how many values it returns, if we unpack
    them.
    """

    place: str
    order: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    returns: int | None = None

    def problems(self) -> list[str]:
        """Return how it differs from our call, each as `name lacks ...`."""
        name = self.place.partition(":")[2]
        try:
            found = find_object(self.place)
        except (ImportError, AttributeError):
            return [f"{self.place.replace(':', '.')} is missing"]
        parameters = inspect.signature(found).parameters
        names = list(parameters)
        missing = [one for one in self.named if one not in parameters and not _takes_any(parameters)]
        if missing:
            return [f"{name} lacks {', '.join(missing)}"]
        moved = [one for place, one in enumerate(self.order) if one and names[place : place + 1] != [one]]
        if moved:
            return [f"{name} does not take {', '.join(moved)} at the expected position"]
        given = {*names[: len(self.order)], *self.named, *self.known}
        more = [one for one, parameter in parameters.items() if one not in given and _required(parameter)]
        if more:
            return [f"{name} also needs {', '.join(more)}"]
        return [f"{name} {problem}" for problem in _returned(found, self.returns)]


@dataclass(frozen=True)
class Seams:
    """The methods of a trainer that are overridden or called.

    methods: name -> parameters that we use; "a|b" is one with either name. returns: name -> how many values it
    returns, if they are unpacked. calls: other functions and classes of the toolkit that we call.
    """

    methods: Mapping[str, tuple[str, ...]]
    returns: Mapping[str, int] = field(default_factory=dict)
    calls: Sequence[Call] = ()


def find_object(place: str) -> Any:
    """Return the object at "module:name.name". Raises ImportError and AttributeError."""
    module, _, names = place.partition(":")
    found = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


def supported(function: Callable, **known: Any) -> dict[str, Any]:
    """Return those of the keyword arguments that this version of a function takes."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in known.items() if name in parameters}


def unpacked(value: Any, count: int, name: str) -> tuple[Any, ...]:
    """Return a toolkit function's values as a tuple. Raises ToolkitChanged if there are not `count` of them."""
    found = len(value) if isinstance(value, (tuple, list)) else 1
    if found != count:
        raise ToolkitChanged(f"{name} returns {found} value{'s' * (found != 1)}, not {count}")
    return tuple(value)


class SeamCall:
    """One call of a seam: its arguments by the names in the toolkit's own method, in any order.

    `method`: the toolkit's own, bound to its trainer. Arguments that a version adds are passed on.
    """

    def __init__(self, method: Callable, given: Sequence[Any], named: Mapping[str, Any]):
        self.method, self.bound = method, inspect.signature(method).bind(*given, **named)
        self.bound.apply_defaults()

    def __getitem__(self, name: str) -> Any:
        """Return an argument; "a|b" is one with either name. Raises ToolkitChanged if the method lacks it."""
        for one in name.split("|"):
            if one in self.bound.arguments:
                return self.bound.arguments[one]
        raise ToolkitChanged(f"{self.method.__qualname__} lacks {name.replace('|', ' or ')}")

    def several(self, *names: str) -> tuple[Any, ...]:
        return tuple(self[name] for name in names)

    def call_original(self, **instead: Any) -> Any:
        """Call the toolkit's own method; `instead`: other values for some arguments."""
        self.bound.arguments.update(instead)
        return self.method(*self.bound.args, **self.bound.kwargs)


def trainer_of(module: ModuleType, name: str, checkout: Checkout) -> type:
    """Return the toolkit's trainer. Raises UserError if its script has no class of this name."""
    found = getattr(module, name, None)
    if not isinstance(found, type):
        raise UserError(
            f"{checkout.toolkit} at {checkout.folder} (version {checkout.version}) is not supported: "
            f"{module.__name__}.{name} is missing. Check out a tested version: {tested_versions(checkout.toolkit)}."
        )
    return found


def check_seams(cls: type, seams: Seams, checkout: Checkout) -> None:
    """Check the methods, parameters and returned tuples of a toolkit's trainer, and of all that we call.

    Raises UserError before the model is loaded, not in the middle of a run.
    """
    problems = []
    for name, parameters in seams.methods.items():
        method = getattr(cls, name, None)
        if method is None:
            problems.append(f"{cls.__name__}.{name} is missing")
            continue
        known = inspect.signature(method).parameters
        missing = [one.replace("|", " or ") for one in parameters if not any(name in known for name in one.split("|"))]
        if missing:
            problems.append(f"{cls.__name__}.{name} lacks {', '.join(missing)}")
        elif name in seams.returns:
            problems += [f"{cls.__name__}.{name} {problem}" for problem in _returned(method, seams.returns[name])]
    problems += [problem for call in seams.calls for problem in call.problems()]
    if problems:
        raise UserError(
            f"{checkout.toolkit} at {checkout.folder} (version {checkout.version}) is not supported: "
            f"{'; '.join(problems)}. Check out a tested version: {tested_versions(checkout.toolkit)}."
        )


def version_error(error: Exception, checkout: Checkout, seams: Iterable[str]) -> UserError | None:
    """Return an error at a seam as a message, if it shows another version of the toolkit; None otherwise.

    `seams`: our methods that the toolkit calls. In a tested version only `ToolkitChanged` counts: any other error is a
    bug of ours or of the toolkit's, and its traceback helps.
    """
    if isinstance(error, ToolkitChanged):
        where = str(error)
    elif (
        checkout.tested
        or not isinstance(error, MISMATCH_ERRORS)
        or not (frame := _meeting_frame(error, checkout.folder, seams))
    ):
        return None
    else:
        text = str(error).splitlines()[0] if str(error) else ""
        where = f"{Path(frame.filename).name}:{frame.lineno}, {frame.name} ({type(error).__name__}: {text})"
    return UserError(
        f"{checkout.toolkit} at {checkout.folder} (version {checkout.version}) has changed: {where}. "
        f"Check out a tested version: {tested_versions(checkout.toolkit)}."
    )


def _meeting_frame(error: Exception, folder: Path, seams: Iterable[str]) -> traceback.FrameSummary | None:
    """Return the frame that raised the error, if our code and the toolkit's meet there."""
    frames = traceback.extract_tb(error.__traceback__)
    near = [frame for frame in frames if OUR_CODE in _path(frame).parents or folder.resolve() in _path(frame).parents]
    if not near or (isinstance(error, ValueError) and "unpack" not in str(error) and "zip()" not in str(error)):
        return None
    last = near[-1]
    if OUR_CODE in _path(last).parents:
        return last if TOOLKIT_CODE in _path(last).parents else None
    before = near[-2] if len(near) > 1 else None
    called_by_us = before is not None and OUR_CODE in _path(before).parents and last is frames[-1]
    calls_us = any(f"{name}(" in f"{error}{last.line}" for name in seams)
    return last if called_by_us or calls_us else None


def _path(frame: traceback.FrameSummary) -> Path:
    return Path(frame.filename).resolve()


def _required(parameter: inspect.Parameter) -> bool:
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in several


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())


def _returned(function: Callable, count: int | None) -> list[str]:
    """Return a problem if the function's own source returns a tuple of another length."""
    if count is None:
        return []
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return []  # without source only the run can show it
    found = {len(values) for values in _tuples(tree.body[0])} - {count}
    return [f"returns {', '.join(map(str, sorted(found)))} values, not {count}"] if found else []


def _tuples(function: ast.AST) -> list[list[ast.expr]]:
    """Return the tuples that a function returns, without those of functions inside it."""
    found = []
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            continue
        values = (
            node.value.elts if isinstance(node, ast.Return) and isinstance(node.value, (ast.Tuple, ast.List)) else None
        )
        if values and not any(isinstance(part, ast.Starred) for part in values):
            found.append(values)
        waiting += ast.iter_child_nodes(node)
    return found
