"""The shipped pipeline, loaded once for all tests of the demo."""

import pytest
import torch

from danceopd_ext.demo import PIPELINE
from danceopd_ext.demo.pretrain.omni import load_omni


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The model is so small that threads cost more than they bring, and one thread repeats exactly."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_pipeline():
    pipeline = load_omni(PIPELINE)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def pipeline(shared_pipeline):
    """The pipeline with no LoRA on it, whatever the test before has done."""
    shared_pipeline.unload_lora_weights()
    yield shared_pipeline
    shared_pipeline.unload_lora_weights()
