"""Nothing in the package or its scripts turns a file into code: every call that could is looked at here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "danceopd_ext").rglob("*.py"), *(ROOT / "scripts").rglob("*.py"), *ROOT.glob("*.py")])
NAMES = [file.relative_to(ROOT).as_posix() for file in FILES]

#: functions that run text, or whatever a pickle says
RUN = ("eval", "exec", "compile", "__import__")
UNPICKLE = (
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.loads",
    "shelve.open",
    "joblib.load",
    "dill.load",
)
OTHER = ("os.system", "os.popen", "runpy.run_path", "runpy.run_module", "torch.hub.load", "torch.jit.load")
#: classes whose from_pretrained reads no weights
WITHOUT_WEIGHTS = ("FlowMatchEulerDiscreteScheduler", "CLIPProcessor")
#: where a module is imported whose name is not written there, and why that is not a stranger's choice
IMPORTED_BY_NAME = {
    "danceopd_ext/toolkits/installed_packages.py",  # checks that an installed package brings it
    "danceopd_ext/toolkits/hosted/import_script.py",  # a toolkit's script, from our own tables, of a trusted checkout
    "danceopd_ext/toolkits/hosted/seams.py",  # modules of that checkout, from our own tables
    "danceopd_ext/toolkits/sd_scripts/teacher_network.py",  # the network module of our own table
    "danceopd_ext/config/toolkits.py",  # parts of our own packages, from our own rows
    "danceopd_ext/models/registry.py",  # our own families
    "danceopd_ext/toolkits/sd_scripts/network_args.py",  # the same: run.py refuses another
}


def name_of(node: ast.AST) -> str:
    """`a.b.c` of an expression, as far as it is one."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{name_of(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield name_of(node.func), node
            if name_of(node.func).rpartition(".")[2] == "partial" and node.args:
                yield name_of(node.args[0]), node


def keywords(call: ast.Call) -> dict[str, object]:
    return {
        one.arg: one.value.value if isinstance(one.value, ast.Constant) else ... for one in call.keywords if one.arg
    }


def problems(text: str) -> list[str]:
    """What in a module's text could run what a file says."""
    tree, found = ast.parse(text), []
    for name, call in calls(tree):
        given, last = keywords(call), name.rpartition(".")[2]
        if name in (*RUN, *UNPICKLE, *OTHER) or name.endswith((".read_pickle", "yaml.load", "yaml.unsafe_load")):
            found.append(f"{name} runs what it reads")
        if name == "torch.load" and given.get("weights_only") is not True:
            found.append("torch.load without weights_only=True")
        if last == "load" and name.startswith(("np.", "numpy.")) and given.get("allow_pickle", False) is not False:
            found.append("numpy.load with pickles")
        if given.get("trust_remote_code", False) is not False:
            found.append("trust_remote_code")
        if given.get("shell", False) is not False:
            found.append("a shell")
        if last == "from_pretrained":
            cls = name.split(".")[-2] if "." in name else ""
            if given.get("use_safetensors") is not True and cls not in WITHOUT_WEIGHTS:
                found.append(f"{name} without use_safetensors=True")
            if "Pipeline" in cls and given.get("trust_remote_code") is not False:
                found.append(f"{name} without trust_remote_code=False")
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imported += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return found + [
        f"imports {name}" for name in imported if name in ("yaml", "dill", "joblib", "shelve", "cloudpickle")
    ]


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_no_call_runs_what_a_file_says(file):
    assert problems(file.read_text(encoding="utf-8")) == []


def test_modules_are_imported_by_a_name_from_elsewhere_only_where_that_is_looked_at():
    found = set()
    for file, name in zip(FILES, NAMES, strict=True):
        for called, call in calls(ast.parse(file.read_text(encoding="utf-8"))):
            written = call.args and isinstance(call.args[0], ast.Constant)
            if called.rpartition(".")[2] in ("import_module", "spec_from_file_location") and not written:
                found.add(name)
    assert found == IMPORTED_BY_NAME


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)", "exec(text)", "__import__(name)", "pickle.load(file)", "pickle.loads(data)", "torch.load(path)",
        "torch.load(path, weights_only=False)", "torch.load(path, weights_only=flag)", "np.load(p, allow_pickle=True)",
        "yaml.load(file)", "import yaml", "from joblib import load", "os.system('x')", "subprocess.run(x, shell=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)", "AutoencoderKL.from_pretrained(x)",
        "ZImagePipeline.from_pretrained(x, use_safetensors=True)", "partial(ZImagePipeline.from_pretrained)",
        "f(trust_remote_code=given)", "pandas.read_pickle(x)", "torch.hub.load('a', 'b')",
    ],
)  # fmt: skip
def test_what_the_scan_finds(line):
    assert problems(line)


@pytest.mark.parametrize(
    "line",
    [
        "model.eval()", "torch.load(path, weights_only=True)", "np.load(path)", "re.compile(x)", "ast.literal_eval(x)",
        "AutoencoderKL.from_pretrained(x, use_safetensors=True)", "pickle.dumps(x)", "f(trust_remote_code=False)",
        "ZImagePipeline.from_pretrained(x, use_safetensors=True, trust_remote_code=False)", "subprocess.run(words)",
    ],
)  # fmt: skip
def test_what_the_scan_passes(line):
    assert problems(line) == []
