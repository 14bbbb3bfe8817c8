"""Settings that are said to have no effect have none: a student is the same bit for bit."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch

from serkd.config import Experiment
from serkd.config.active import find_inactive
from serkd.events import Observer
from serkd.recipe import build_experiment
from serkd.train.checkpoint import FolderCheckpoints
from serkd.train.loop import run_loop
from serkd.train.task import Task

# settings, and what they make moot with other values than the defaults
UNTAUGHT = (
    {"distill.alpha": 0.0, "distill.supcon_weight": 0.0},
    {
        "distill.kd": "dkd",
        "distill.temperature": 9.0,
        "distill.dkd_other_weight": 2.0,
        "distill.supcon_temperature": 0.5,
        "curriculum.temperature_curriculum": "instance",
        "curriculum.temperature_lr": 0.3,
        "curriculum.control": "anti",
        "meta.rho": 0.3,
    },
)
ONLY_TAUGHT = (
    {"distill.alpha": 1.0, "distill.kd": "mse_logits"},
    {
        "distill.temperature": 9.0,
        "distill.supcon_weight": 0.6,
        "distill.supcon_temperature": 0.5,
        "distill.label_smoothing": 0.3,
        "curriculum.temperature_curriculum": "global",
        "curriculum.temperature_full_at": 0.9,
        "curriculum.alpha_start": 0.2,
    },
)
CHANGING = (
    {
        "distill.supcon_weight": 1.0,
        "curriculum.alpha_curriculum": "cosine",
        "curriculum.alpha_start": 0.1,
        "curriculum.alpha_end": 0.5,
        "meta.order": "finite",
    },
    {"distill.alpha": 0.2, "distill.label_smoothing": 0.3, "meta.last_layers": 2},
)

ANY_ORDER = (
    {"curriculum.pacing": "linear", "curriculum.control": "random", "meta.order": "finite"},
    {"curriculum.scorer": "student_teacher_kl", "meta.last_layers": 2},
)
ALL_AT_ONCE = (
    {"curriculum.pacing": "linear", "curriculum.start_share": 1.0},
    {
        "curriculum.scorer": "margin",
        "curriculum.control": "anti",
        "curriculum.full_at": 0.9,
        "curriculum.num_jumps": 2,
    },
)


class Builder(Protocol):
    """The part of the `stored` fixture that is used here."""

    @property
    def experiment(self) -> Experiment: ...

    def build_task(
        self, name: str, changes: Mapping[str, Any] | None = None
    ) -> Callable[[], Task]: ...


@pytest.mark.parametrize(
    ("settings", "moot"), [UNTAUGHT, ONLY_TAUGHT, CHANGING, ANY_ORDER, ALL_AT_ONCE]
)
def test_settings_without_effect_change_no_bit(
    stored: Builder, settings: dict[str, Any], moot: dict[str, Any], tmp_path: Path
) -> None:
    everything = {**settings, **moot}
    experiment = build_experiment(stored.experiment.model_dump(mode="json"), everything)
    assert set(moot) <= set(find_inactive(experiment))
    weights = []
    for number, changes in enumerate((settings, everything)):
        task = stored.build_task("student", changes)()
        found = run_loop(task, FolderCheckpoints(tmp_path / str(number)), Observer())
        weights.append(found.weights)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
