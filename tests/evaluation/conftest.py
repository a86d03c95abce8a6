import pytest

from danceopd_ext.cli import run
from tests.evaluation.calls import load_script
from tests.tiny.families.flux_2 import klein_pipeline
from tests.tiny.loras import write_random_lora
from tests.tiny.pipelines import save_any


@pytest.fixture(scope="session")
def evaluate():
    """The script as a module."""
    return load_script()


@pytest.fixture(scope="session")
def sd3(tmp_path_factory):
    """(a tiny model, a LoRA for it). Nobody writes there."""
    folder = tmp_path_factory.mktemp("sd3")
    model = save_any("sd3", folder / "model")
    return model, write_random_lora(folder / "style.safetensors", model, seed=3)


@pytest.fixture(scope="session")
def klein(tmp_path_factory):
    """A tiny model that edits, whose text encoder does not see the source."""
    folder = tmp_path_factory.mktemp("klein") / "model"
    klein_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def omni(tmp_path_factory):
    """A tiny model that edits, whose text encoder sees the source."""
    return save_any("z_image_omni", tmp_path_factory.mktemp("omni") / "model")


@pytest.fixture
def refusal(evaluate, capsys, tmp_path):
    """Calls the script with arguments that are wrong and returns its message: nothing may be written."""

    def message(arguments: list[str]) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        capsys.readouterr()
        try:
            code = run(evaluate.main, arguments)
        except SystemExit as exit:  # argparse's own
            code = exit.code
        assert code == 2
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return capsys.readouterr().err

    return message
