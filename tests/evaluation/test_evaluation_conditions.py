"""What is encoded before pictures are drawn: all that is needed, once, and nothing else."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from danceopd_ext.engine.model import find_model
from danceopd_ext.errors import UserError
from danceopd_ext.evaluation.conditions import JobConditions
from danceopd_ext.evaluation.jobs import Job, gedit_jobs, geneval_jobs
from tests.evaluation.benchmarks import write_gedit, write_geneval


def conditions(model, jobs, folder, guided):
    found = find_model(str(model), None, None, device=torch.device("cpu"))
    return JobConditions(found, jobs, lambda job: (64, 64), folder, guided)


def test_a_prompt_with_line_breaks_is_encoded_whole(tmp_path, sd3):
    texts = ["a cat", "a cat\non the house", "a cat\non the tree"]
    jobs = [Job(text, (Path(f"{i}.png"),), "all", f"line {i}") for i, text in enumerate(texts)]
    found = conditions(sd3[0], jobs, tmp_path, guided=False)
    found.encode()
    pipeline = found.model.load_text_encoders()
    for job in jobs:
        with torch.no_grad():
            expected = found.model.family.encode_prompts(pipeline, [job.prompt])[0]
        item = found.of(job).items[0]
        assert all(torch.allclose(item[name], expected[name], atol=1e-5) for name in expected)
    items = [found.of(job).items[0]["embeds"] for job in jobs]
    assert not torch.equal(items[0], items[1]) and not torch.equal(items[1], items[2])


def count(prompts):
    """(prompts, empty prompts that see a source, empty prompts that see none)."""
    empty = [prompt.sources for prompt in prompts if not prompt.text]
    return len(prompts) - len(empty), sum(map(bool, empty)), len(empty) - sum(map(bool, empty))


@pytest.mark.parametrize(
    ("model", "guided", "expected"),
    [
        ("klein", False, (2, 0, 1)),
        ("klein", True, (2, 0, 1)),  # its text encoder does not see the source
        ("omni", False, (2, 0, 1)),  # guidance that does nothing needs no negative
        ("omni", True, (2, 2, 1)),
    ],
)
def test_empty_prompts_are_encoded_where_guidance_uses_them(request, tmp_path, model, guided, expected):
    jobs = gedit_jobs(write_gedit(tmp_path))
    found = conditions(request.getfixturevalue(model), jobs, tmp_path / "cache", guided)
    assert count(found.prompts()) == expected
    found.encode()
    entries = [file.parent.name for file in (tmp_path / "cache").rglob("*.safetensors")]
    assert len([folder for folder in entries if "-vae-" not in folder]) == sum(expected)
    condition = found.of(jobs[0])
    assert any(name.startswith("negative_") for name in condition.items[0]) == bool(expected[1])


def test_too_little_room_for_the_prompts(tmp_path, sd3, monkeypatch):
    jobs = geneval_jobs(write_geneval(tmp_path), 1)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(UserError, match=r"encoded prompts need .* choose another --out, .*--limit"):
        conditions(sd3[0], jobs, tmp_path / "cache", True).encode()
