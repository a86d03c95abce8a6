"""The shipped pipeline, loaded once for all tests of the demo."""

from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "danceopd_ext" / "demo"


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    return DEMO


@pytest.fixture(scope="session")
def shared_pipeline():
    from diffusers import ZImagePipeline

    pipeline = ZImagePipeline.from_pretrained(DEMO / "pipeline", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def pipeline(shared_pipeline):
    """The pipeline with no LoRA on it, whatever the test before has done."""
    shared_pipeline.unload_lora_weights()
    yield shared_pipeline
    shared_pipeline.unload_lora_weights()
