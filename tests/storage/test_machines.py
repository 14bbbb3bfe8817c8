"""Machines that share no folder: what they refuse to do together."""

from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from serkd import config
from serkd.errors import InputError
from serkd.events import Observer
from serkd.train.launch import train


def test_workers_on_machines_without_a_common_folder_are_refused(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}] * 2)
    work = machine("first") / "stages" / ".work" / "teacher-k"
    with pytest.raises(InputError, match=r"train\.num_workers must be 1 where --storage is an"):
        train("teacher", lambda: pytest.fail(), work, config.Train(num_workers=2), Observer())
