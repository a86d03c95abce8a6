"""For all tests: no network, one thread, fixed seeds, and the tiny models made once."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import signal

import numpy
import pytest
import torch

torch.set_num_threads(1)

# A shell ignores Ctrl-C for what it starts in the background, nohup ignores SIGHUP, and a run leaves both ignored.
for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, name, None)
    if number and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


@pytest.fixture(autouse=True)
def fixed_seeds():
    """What a test draws does not depend on the tests before it."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """Family name -> the folder of its tiny pipeline. Nobody writes there."""
    from tests.tiny.pipelines import PIPELINES, save_any  # here: a toolkit's environment has an older diffusers

    folder = tmp_path_factory.mktemp("pipelines")
    return {family: save_any(family, folder / family) for family in PIPELINES}


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """Runs scripts in processes of their own (see tests.toolkits.forked)."""
    from tests.toolkits.forked import Forked

    forked = Forked(tmp_path_factory.mktemp("forked"))
    yield forked
    forked.end()


@pytest.fixture
def processors(monkeypatch):
    """Tiny folders of Qwen-Image-Edit can be loaded whole."""
    from tests.tiny.families.qwen_image import hand_processors_over  # here: as above

    hand_processors_over(monkeypatch)
