"""Why torch has no GPU, and the line that mends it."""

from __future__ import annotations

import os
import sys

import pytest
import torch

from danceopd_ext import machine


@pytest.fixture
def card(monkeypatch, tmp_path):
    """A driver's nvidia-smi that lists a card."""
    if os.name == "nt":
        pytest.skip("the stand-in is a script for a Unix shell")
    for name in ("CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!{sys.executable}\nprint('GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-1)')\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tool


def build(monkeypatch, version, cuda):
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.version, "cuda", cuda)


def test_a_build_for_the_cpu(monkeypatch, card):
    build(monkeypatch, "2.13.0+cpu", None)
    reason = machine.why_no_gpu()
    assert "torch 2.13.0+cpu is a build without CUDA" in reason
    line = 'pip install "torch==2.13.0+cu130" --index-url https://download.pytorch.org/whl/cu130'
    assert line in reason
    build(monkeypatch, "2.7.1", None)
    assert 'pip install "torch==2.7.1+cu126"' in machine.cuda_install_line()


def test_a_driver_that_does_not_fit(monkeypatch, card):
    build(monkeypatch, "2.13.0+cu130", "13.0")
    reason = machine.why_no_gpu()
    assert "(CUDA 13.0) cannot use it" in reason and "update the NVIDIA driver" in reason
    assert "pip" not in reason


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("CUDA_VISIBLE_DEVICES", "", "CUDA_VISIBLE_DEVICES hides"),
        ("CUDA_VISIBLE_DEVICES", "-1", "CUDA_VISIBLE_DEVICES hides"),
        ("ACCELERATE_USE_CPU", "True", "remove --cpu"),
    ],
)
def test_a_card_that_is_not_to_be_used(monkeypatch, card, variable, value, expected):
    build(monkeypatch, "2.13.0+cpu", None)
    monkeypatch.setenv(variable, value)
    assert expected in machine.why_no_gpu()
    assert "pip install" not in machine.why_no_gpu()


def test_no_card(monkeypatch, card):
    build(monkeypatch, "2.13.0+cpu", None)
    card.write_text(f"#!{sys.executable}\nraise SystemExit('No devices were found')\n", encoding="utf-8")
    assert machine.why_no_gpu() == ""
