"""What a preset names by a dotted path is imported from installed packages only, and only optimizers are called."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from danceopd_ext.config.schema import OptimizerSection
from danceopd_ext.errors import UserError
from danceopd_ext.toolkits import installed_packages
from danceopd_ext.toolkits.installed_packages import Refused, class_at
from danceopd_ext.toolkits.native.checks import check_optimizer
from danceopd_ext.toolkits.native.optimizers import KNOWN, optimizer_class

CPU, OPTIMIZER = torch.device("cpu"), torch.optim.Optimizer
#: importing it leaves a mark beside it
MODULE = """
from pathlib import Path
Path(__file__).with_suffix(".ran").touch()
import torch
class Mine(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr)
class NotOne:
    pass
def call(*args, **kwargs):
    Path(__file__).with_suffix(".called").touch()
class Raises(torch.optim.SGD):
    def __init__(self, params, lr):
        raise KeyError("missing")
class CannotStep(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr)
    def step(self, closure=None):
        raise NotImplementedError("no step")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder on sys.path, which is not the working directory."""
    found, here = tmp_path / "found", tmp_path / "here"
    found.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [*sys.path, str(found)])
    yield found
    for name in [name for name in sys.modules if name.partition(".")[0] in ("gift", "gift_two")]:
        del sys.modules[name]


def module(folder: Path, name: str = "gift") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(MODULE, encoding="utf-8")
    importlib.invalidate_caches()
    return path


def install(folder: Path, name: str = "gift", files: tuple[str, ...] = (), packages: str = "", url: dict | None = None):
    """What pip leaves beside an installed package."""
    record = folder / f"{name}-1.0.dist-info"
    record.mkdir(parents=True, exist_ok=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (record / "RECORD").write_text(
        "".join(f"{file},,\n" for file in (*files, f"{record.name}/METADATA")), encoding="utf-8"
    )
    if packages:
        (record / "top_level.txt").write_text(packages, encoding="utf-8")
    if url:
        (record / "direct_url.json").write_text(json.dumps(url), encoding="utf-8")
    importlib.invalidate_caches()


def refused(path: str) -> str:
    with pytest.raises(Refused) as error:
        class_at(path, OPTIMIZER)
    return str(error.value)


def test_a_module_that_no_package_brings_is_not_run(folder):
    path = module(folder)
    message = refused("gift.Mine")
    assert str(path) in message and "does not belong to an installed package" in message
    assert "--allow_local_code" in message
    assert not path.with_suffix(".ran").exists()
    assert class_at("gift.Mine", OPTIMIZER, local=True).__name__ == "Mine"
    assert path.with_suffix(".ran").exists()


@pytest.mark.parametrize("place", ["here", "script"])
def test_a_loose_folder_stays_one_beside_what_pip_leaves(folder, tmp_path, monkeypatch, place):
    """What makes a package installed may have come with the preset, too."""
    loose = tmp_path / place
    path = module(loose)
    install(loose, files=("gift.py",))
    monkeypatch.setattr(sys, "path", [str(loose), *sys.path])
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "script" / "train.py")])
    refused("gift.Mine")
    assert not path.with_suffix(".ran").exists()


def test_the_working_directory_is_searched_only_if_local_code_is_allowed(folder):
    module(Path.cwd())
    with pytest.raises(ImportError):
        class_at("gift.Mine", OPTIMIZER)
    assert class_at("gift.Mine", OPTIMIZER, local=True).__name__ == "Mine"


@pytest.mark.parametrize("listed", ["files", "packages"])
def test_an_installed_package_is_imported(folder, listed):
    module(folder)
    install(folder, **({"files": ("gift.py",)} if listed == "files" else {"packages": "gift\n"}))
    assert class_at("gift.Mine", OPTIMIZER).__name__ == "Mine"


def test_a_package_that_hides_an_installed_one_is_not_run(folder, tmp_path, monkeypatch):
    module(folder)
    install(folder, files=("gift.py",))
    hides = module(tmp_path / "pythonpath")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "pythonpath"), *sys.path])
    assert str(hides) in refused("gift.Mine")
    assert not hides.with_suffix(".ran").exists()


def test_a_folder_that_joins_an_installed_namespace_is_not_run(folder, tmp_path, monkeypatch):
    """A package without __init__.py is joined from all folders of sys.path."""
    module(folder / "gift", "good")
    install(folder, files=("gift/good.py",))
    assert class_at("gift.good.Mine", OPTIMIZER).__name__ == "Mine"
    del sys.modules["gift"], sys.modules["gift.good"]
    path = module(tmp_path / "pythonpath" / "gift", "evil")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "pythonpath")])
    importlib.invalidate_caches()
    refused("gift.evil.Mine")
    assert not path.with_suffix(".ran").exists()


@pytest.mark.parametrize("listed", [{"packages": "gift\n"}, {}], ids=["top_level.txt", "by its name"])
def test_an_editable_installation_counts(folder, tmp_path, monkeypatch, listed):
    source = tmp_path / "my code"
    module(source)
    monkeypatch.setattr(sys, "path", [*sys.path, str(source)])  # as its .pth file does
    install(folder, url={"url": source.as_uri(), "dir_info": {"editable": True}}, **listed)
    assert class_at("gift.Mine", OPTIMIZER).__name__ == "Mine"
    path = module(source, "gift_two")
    refused("gift_two.Mine")
    assert not path.with_suffix(".ran").exists(), "a file beside it is not installed"


def test_a_folder_that_was_not_installed_as_editable_is_not_one(folder, tmp_path, monkeypatch):
    source = tmp_path / "source"
    module(source)
    monkeypatch.setattr(sys, "path", [*sys.path, str(source)])
    install(folder, url={"url": source.as_uri(), "dir_info": {}})
    refused("gift.Mine")


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("os.system", "os is part of Python"),
        ("builtins.eval", "builtins is part of Python"),
        ("subprocess.Popen", "subprocess is part of Python"),
        ("torch.optim.Optimizer", "it is the abstract class itself"),
        ("torch.nn.Linear", "it is a class. Only subclasses of torch.optim.optimizer.Optimizer"),
        ("torch.load", "it is not a class"),
        ("torch.optim.lr_scheduler.LambdaLR", "it is a class"),
        ("transformers.pipeline", "it is not a class"),
        ("transformers.AutoModel", "it is a class"),
        ("pip.__main__.Mine", "names separated by dots"),
        ("..x.y", "names separated by dots"),
        ("x..y", "names separated by dots"),
        ("a b.c", "names separated by dots"),
        ("torch.optim.SGD()", "names separated by dots"),
        ("torch.optim.", "names separated by dots"),
        ("", "names separated by dots"),
    ],
)
def test_what_is_no_optimizer_is_one_message(path, part):
    with pytest.raises((Refused, ImportError)) as error:
        class_at(path, OPTIMIZER)
    assert part in str(error.value)
    if "." in path:
        with pytest.raises(UserError) as told:
            optimizer_class(path, CPU)
        assert str(told.value).startswith(f'optimizer_type = "{path}": ') and part in str(told.value)


@pytest.mark.parametrize("name", ["NotOne", "call", "Path", "__file__"])
def test_nothing_but_an_optimizer_is_called_even_if_local_code_is_allowed(folder, name):
    path = module(folder)
    with pytest.raises((Refused, ImportError)):
        class_at(f"gift.{name}", OPTIMIZER, local=True)
    assert not path.with_suffix(".called").exists()


@pytest.mark.parametrize("name", ["Raises", "CannotStep", "NoSuch"])
def test_an_optimizer_that_fails_is_a_message(folder, name):
    module(folder)
    with pytest.raises(UserError) as error:
        check_optimizer(OptimizerSection(optimizer_type=f"gift.{name}"), CPU, 10, local=True)
    assert f"gift.{name}" in str(error.value) or name == "NoSuch"


def test_a_module_that_fails_is_a_message(folder):
    path = module(folder)
    path.write_text("import sys\nraise LookupError('not now')", encoding="utf-8")
    with pytest.raises(UserError, match=r"gift does not import .*not now"):
        optimizer_class("gift.Mine", CPU, local=True)


def test_the_known_names_are_imported_from_installed_packages_too(folder, monkeypatch):
    """A file named like a package that is not installed is not taken for it."""
    monkeypatch.setitem(KNOWN, "Gift", type(KNOWN["Lion"])("gift.Mine", "gift"))
    path = module(folder)
    with pytest.raises(UserError, match="does not belong to an installed package"):
        optimizer_class("gift", CPU)
    assert not path.with_suffix(".ran").exists()


def test_every_known_name_that_is_installed_here_passes():
    found = []
    for name, known in KNOWN.items():
        try:
            found.append(class_at(known.path, OPTIMIZER))
        except ImportError:
            continue
        except Exception as error:
            assert "bitsandbytes" in known.path, (name, error)
    assert {"AdamW", "Lion", "Prodigy", "AdamWScheduleFree"} <= {cls.__name__ for cls in found}


def test_a_damaged_list_of_files_is_passed_over(folder):
    path = module(folder)
    install(folder)
    (folder / "gift-1.0.dist-info" / "RECORD").write_text("\n\nx\n", encoding="utf-8")
    refused("gift.Mine")
    assert not path.with_suffix(".ran").exists()


def test_the_working_directory_is_never_searched_for_distributions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert installed_packages._is_loose(tmp_path) and installed_packages._is_loose(Path("."))
