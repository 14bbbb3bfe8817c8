"""A sweep that is started again with another file: what is kept, moved, run again, or set aside."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serkd.cli import app
from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.corpora.protocols import read_folds
from serkd.errors import InputError
from serkd.recipe import build_experiment
from serkd.search.reconcile import reconcile, retry_failed
from serkd.search.replay import Replay
from serkd.search.space import Space
from serkd.search.tuner import Sweep, open_sweep
from serkd.section import validate

FILE: dict[str, Any] = {
    "base": "tiny.yaml",
    "space": {
        "distill.alpha": {"float": [0.2, 0.8]},
        "curriculum.pacing": {"choice": ["none", "root"]},
        "curriculum.start_share": {"float": [0.2, 0.6], "when": {"curriculum.pacing": "root"}},
    },
    "budget": {"trials": 4},
}
TRIALS: list[dict[str, Any]] = [
    {"distill.alpha": 0.25, "curriculum.pacing": "none"},
    {"distill.alpha": 0.5, "curriculum.pacing": "root", "curriculum.start_share": 0.3},
    {"distill.alpha": 0.75, "curriculum.pacing": "root", "curriculum.start_share": 0.5},
    {"distill.alpha": 0.3, "curriculum.pacing": "none"},
]
ENDS = ("finished", "pruned", "failed", None)  # the last one was running when its driver died


def _open(storage: Path, base: Experiment, **changes: object) -> Sweep:
    return open_sweep("sweep", validate(Space, {**FILE, **changes}, "space"), base, storage)


def _no(text: str) -> bool:
    raise AssertionError(f"nothing is lost, but it asks:\n{text}")


@pytest.fixture
def folds(tiny: Experiment) -> list[Fold]:
    return read_folds(tiny.corpus, tiny.protocol)


@pytest.fixture
def swept(tiny: Experiment, folds: list[Fold], tmp_path: Path) -> Sweep:
    """Four trials of the first file, each at another end."""
    sweep = _open(tmp_path, tiny)
    reconcile(sweep, folds, _no)
    for number, (params, end) in enumerate(zip(TRIALS, ENDS, strict=True)):
        record = {"trial": number, "time": float(number)}
        sweep.ledger.append({**record, "event": "proposed", "params": params})
        sweep.ledger.append({**record, "event": "started"})
        if end is not None:
            facts = {"reason": "bad luck"} if end == "failed" else {"value": number / 10}
            sweep.ledger.append({**record, "event": end, **facts})
    return sweep


def _states(replay: Replay) -> dict[int, str]:
    return {trial.number: trial.state for trial in replay.current()}


KEPT = {0: "finished", 1: "pruned", 2: "failed", 3: "running"}


def _space(**changes: Mapping[str, Any]) -> dict[str, Any]:
    return {**FILE["space"], **{key.replace("__", "."): value for key, value in changes.items()}}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"budget": {"trials": 9}},
        {"space": _space(distill__alpha={"float": [0.05, 0.95]})},
        {"space": _space(curriculum__pacing={"choice": ["none", "root", "linear"]})},
        {"sampler": "random", "seed": 5},
    ],
    ids=["the same file", "more trials", "wider range", "new choice", "another sampler"],
)
def test_what_only_adds_keeps_every_trial(
    swept: Sweep, tiny: Experiment, folds: list[Fold], changes: dict[str, Any]
) -> None:
    records = swept.ledger.read()
    again = _open(swept.folder.parent.parent, tiny, **changes)
    reconcile(again, folds, _no)
    assert again.ledger.read() == records
    about = json.loads((swept.folder / "sweep.json").read_text())
    assert validate(Space, about["space"], "sweep.json") == again.space


def test_a_new_key_is_added_to_the_trials_that_had_its_value(
    swept: Sweep, tiny: Experiment, folds: list[Fold]
) -> None:
    """The base's temperature was what they all ran with."""
    space = _space(distill__temperature={"choice": [1.0, tiny.distill.temperature]})
    again = _open(swept.folder.parent.parent, tiny, space=space)
    reconcile(again, folds, _no)
    replay = again.ledger.replay()
    assert _states(replay) == KEPT
    for trial, params in zip(replay.current(), TRIALS, strict=True):
        assert trial.params == {**params, "distill.temperature": tiny.distill.temperature}


def test_a_key_that_is_fixed_keeps_the_trials_with_that_value(
    swept: Sweep, tiny: Experiment, folds: list[Fold]
) -> None:
    base = build_experiment(tiny.model_dump(mode="json"), {"distill.alpha": 0.25})
    space = {key: value for key, value in FILE["space"].items() if key != "distill.alpha"}
    again, told = _open(swept.folder.parent.parent, base, space=space), list[str]()
    reconcile(again, folds, lambda text: told.append(text) is None)
    replay = again.ledger.replay()
    assert _states(replay) == {0: "finished"}
    assert replay.trials[0].params == {"curriculum.pacing": "none"}
    assert "sets aside 2 of 3 trials that ended" in told[0]


NARROW = _space(distill__alpha={"float": [0.2, 0.4]})


def test_a_range_that_loses_results_says_which_and_does_nothing_without_consent(
    swept: Sweep, tiny: Experiment, folds: list[Fold]
) -> None:
    records, about = swept.ledger.read(), (swept.folder / "sweep.json").read_text()
    again, told = _open(swept.folder.parent.parent, tiny, space=NARROW), list[str]()

    def refuse(text: str) -> bool:
        told.append(text)
        return False

    with pytest.raises(InputError, match="nothing was changed"):
        reconcile(again, folds, refuse)
    assert "sets aside 2 of 3 trials that ended" in told[0]
    assert "1 trial(s) (1): distill.alpha = 0.5 is outside the new range" in told[0]
    assert again.ledger.read() == records
    assert (swept.folder / "sweep.json").read_text() == about


def test_with_consent_what_does_not_fit_is_set_aside_and_numbers_are_not_given_again(
    swept: Sweep, tiny: Experiment, folds: list[Fold]
) -> None:
    again = _open(swept.folder.parent.parent, tiny, space=NARROW)
    reconcile(again, folds, lambda text: True)
    replay = again.ledger.replay()
    assert _states(replay) == {0: "finished", 3: "running"}
    assert replay.trials[0].is_settled  # its peers have gone: it is not judged again
    assert replay.next_number == 4
    reconcile(again, folds, _no)  # once is enough


def test_a_base_that_trials_read_invalidates_them_and_one_that_they_do_not_is_nothing(
    swept: Sweep, tiny: Experiment, folds: list[Fold]
) -> None:
    storage, data = swept.folder.parent.parent, tiny.model_dump(mode="json")
    unread = build_experiment(data, {"curriculum.scorer": "random"})
    told: list[str] = []
    reconcile(_open(storage, unread), folds, lambda text: told.append(text) is None)
    replay = swept.ledger.replay()
    # without a curriculum nobody reads its scorer
    assert _states(replay) == {0: "finished", 3: "running"}
    assert "the base has changed where the trial reads it" in told[0]


def test_other_seeds_run_what_ended_well_again_under_its_number(
    swept: Sweep, tiny: Experiment, folds: list[Fold]
) -> None:
    reconcile(_open(swept.folder.parent.parent, tiny, seeds=[0, 1]), folds, _no)
    states = _states(swept.ledger.replay())
    assert states == {0: "preempted", 1: "preempted", 2: "failed", 3: "running"}


def test_another_scheduler_does_not_judge_what_ended(
    swept: Sweep, tiny: Experiment, folds: list[Fold]
) -> None:
    reconcile(_open(swept.folder.parent.parent, tiny, scheduler={"name": "median"}), folds, _no)
    replay = swept.ledger.replay()
    assert _states(replay) == KEPT
    assert [n for n, trial in replay.trials.items() if trial.is_settled] == [0, 1, 2]


def test_another_corpus_sets_everything_aside(swept: Sweep, folds: list[Fold]) -> None:
    told: list[str] = []
    reconcile(swept, folds[:2], lambda text: told.append(text) is None)
    assert _states(swept.ledger.replay()) == {}
    assert "3 trial(s) (0, 1, 2): the corpus or its folds have changed" in told[0]


def test_failed_trials_are_run_again_when_asked(swept: Sweep) -> None:
    assert retry_failed(swept) == 1
    states = _states(swept.ledger.replay())
    assert states == {**KEPT, 2: "preempted"}
    assert retry_failed(swept) == 0


def test_the_command_refuses_a_change_that_loses_results_and_says_how_to_agree(
    swept: Sweep, tiny_recipe: Path, tmp_path: Path
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps({**FILE, "base": str(tiny_recipe), "space": NARROW}))
    found = CliRunner().invoke(app, ["sweep", str(path), "--storage", str(tmp_path), "--quiet"])
    assert isinstance(found.exception, InputError)
    assert "nothing was changed" in str(found.exception)
    assert "2 of 3 trials that ended" in found.stderr
    assert "give --yes to agree" in found.stderr
