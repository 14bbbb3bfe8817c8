"""Machines that share no folder: what they refuse to do together."""

from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from serkd import config
from serkd.config import Experiment
from serkd.corpora.protocols import read_folds
from serkd.corpora.seal import open_seal, read_log
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


def test_a_look_at_the_test_split_is_known_to_the_next_machine(
    machine: Callable[[str], Path], tiny: Experiment
) -> None:
    folds = read_folds(tiny.corpus, tiny.protocol)
    for number, name in enumerate(("first", "second", "third"), start=1):
        root = machine(name)
        result, log = root / "sweeps" / "s" / "arms_test.json", root / "test_log.jsonl"
        asked = (tiny.corpus, tiny.protocol, folds, {}, result)
        _, look = open_seal(log, "sweeps/s", "arms a", *asked)
        assert (look.number, len(read_log(log))) == (number, number)
