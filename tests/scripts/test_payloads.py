"""The campaign of payloads, on the one that starts fastest, and the command of LoRA files in a stranger's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from scripts.campaigns import payloads

ROOT = Path(__file__).resolve().parents[2]


def test_a_checkout_that_came_with_a_preset_runs_with_the_flag_alone(capsys):
    assert payloads.main(["--only", "with .git"]) == 0
    told = capsys.readouterr().out
    assert "did not run, exit code 2" in told and "--allow_local_code RAN, exit code 2" in " ".join(told.split())
    assert "2 runs, 0 of 1 payloads ran without --allow_local_code, 0 wrong" in told


def test_the_campaign_fails_where_code_ran(capsys, monkeypatch):
    def ran(case, flag, *_):
        return payloads.Outcome(case, flag, True, 0, 1.0, "")

    monkeypatch.setattr(payloads, "run", ran)
    assert payloads.main(["--only", "None.py"]) == 1
    assert payloads.main(["--only", "no such payload"]) == 1


def test_a_module_in_the_working_directory_is_not_taken_for_a_library(tmp_path):
    """`python -m` would search there first."""
    marker = tmp_path / "ran"
    (tmp_path / "torch.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "danceopd_ext", "inspect", "none.safetensors"], cwd=tmp_path, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert done.returncode == 2 and "none.safetensors" in done.stderr
    assert not marker.exists()
