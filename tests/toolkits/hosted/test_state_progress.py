"""Our part of a state that a toolkit saved is read as two numbers, or refused with its name."""

from __future__ import annotations

import pytest
import torch

from danceopd_ext.errors import UserError
from danceopd_ext.toolkits.hosted.state_progress import PROGRESS_FILE, read_progress


def saved(folder, **progress):
    torch.save(progress, folder / PROGRESS_FILE)
    return folder


@pytest.mark.parametrize("loss", [None, 0.25, 2])
def test_a_state_gives_its_step_and_its_loss(tmp_path, loss):
    assert read_progress(saved(tmp_path, step=7, loss=loss)) == {"step": 7, "loss": float(loss or 0)}


@pytest.mark.parametrize("loss", [torch.ones(2), torch.ones(0), 10**400, "x", [], True])
def test_a_loss_that_is_no_number_is_refused(tmp_path, loss):
    with pytest.raises(UserError, match=rf"{PROGRESS_FILE}: loss is "):
        read_progress(saved(tmp_path, step=7, loss=loss))
