"""`serkd status`, `why` and `logs`: what a ledger and the logs say, in words."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serkd.cli import app
from serkd.config import Experiment
from serkd.corpora.protocols import read_folds
from serkd.errors import InputError
from serkd.files import write_json
from serkd.report.look import open_look
from serkd.report.run import describe_folds
from serkd.search.ledger import Ledger
from serkd.search.reconcile import reconcile
from serkd.search.reports import log_path
from serkd.search.space import Space
from serkd.search.tuner import open_sweep
from serkd.section import validate

FILE = {
    "base": "tiny.yaml",
    "space": {"distill.alpha": {"float": [0.2, 0.8]}},
    "budget": {"trials": 8},
    "scheduler": {"name": "asha", "grace_epochs": 1, "reduction_factor": 2},
}
KEY = "0123456789abcdef"


@pytest.fixture
def storage(tiny: Experiment, tmp_path: Path) -> Path:
    """Six trials: two finished, one pruned, failed, waiting and running each."""
    sweep = open_sweep("heights", validate(Space, FILE, "space"), tiny, tmp_path)
    folds = read_folds(tiny.corpus, tiny.protocol)
    reconcile(sweep, folds, lambda text: True)
    write_json(sweep.folder / "folds.json", describe_folds(folds))
    stages = [
        {"name": name, "key": f"{KEY}{name}", "is_cached": name != "student", "seconds": 1.0}
        for name in ("teacher", "features", "logmel", "student")
    ]
    ends = {
        0: {"event": "finished", "value": 0.5, "values": {"dev_uar": 0.5}, "seconds": 90.0},
        1: {"event": "finished", "value": 0.75, "values": {"dev_uar": 0.75}, "seconds": 90.0},
        2: {"event": "pruned", "step": 1, "value": 0.4, "cutoff": 0.625, "num_peers": 2},
        3: {"event": "failed", "reason": "ZeroDivisionError: division by zero"},
        4: {"event": "waits", "waits_for": f"teacher-{KEY}"},
        5: {},
    }
    sweep.ledger.append({"event": "opened", "time": 0.0})
    for number, end in ends.items():
        own = {"trial": number, "time": 60.0 * number}
        params = {"distill.alpha": 0.3 + number / 10}
        sweep.ledger.append({**own, "event": "proposed", "params": params})
        sweep.ledger.append({**own, "event": "started"})
        sweep.ledger.append({**own, "event": "stages", "stages": stages})
        if number < 3:
            value = end["value"]
            sweep.ledger.append({**own, "event": "rung", "step": 1, "value": value})
        if end:
            sweep.ledger.append({**own, **end})
    log = log_path(sweep.folder / "logs", 3)
    log.parent.mkdir()
    log.write_text("\n".join(f"line {i}" for i in range(30)) + "\nZeroDivisionError: here\n")
    return tmp_path


def _ask(storage: Path, *words: str) -> str:
    found = CliRunner().invoke(app, [*words, "--storage", str(storage)])
    assert found.exception is None, found.exception
    return found.stdout


def test_of_an_ablation_the_trials_are_those_that_were_asked_for(tmp_path: Path) -> None:
    """Its cells are more where some were stored before."""
    folder = tmp_path / "sweeps" / "arms"
    folder.mkdir(parents=True)
    write_json(folder / "ablation.json", {})
    ledger = Ledger(folder / "ledger.jsonl")
    ledger.append({"event": "opened", "time": 0.0, "total": 5})
    ledger.append({"event": "proposed", "time": 0.0, "trial": 0, "params": {"cell": KEY}})
    ledger.append({"event": "started", "time": 0.0, "trial": 0})
    ledger.append({"event": "finished", "time": 90.0, "trial": 0, "value": 0.5, "seconds": 90.0})
    status = open_look(Path("arms"), tmp_path).status
    assert (status.num_done, status.total) == (1, 5)
    assert status.left_s == pytest.approx(4 * 90.0)


def test_status_counts_and_predicts(storage: Path) -> None:
    status = open_look(Path("heights"), storage).status
    assert (status.num_done, status.total) == (4, 8)
    assert status.best is not None
    assert status.best.number == 1
    assert status.trials_per_hour == pytest.approx(4 / (300 / 3600))
    assert status.left_s == pytest.approx(4 * 75.0)
    assert status.reuse == pytest.approx(3 / 4)
    table = _ask(storage, "status", "heights")
    assert "4/8" in table
    assert "0.7500 (trial 1)" in table
    found = json.loads(_ask(storage, "status", "heights", "--json"))
    assert (found["name"], found["running"], found["waiting"]) == ("heights", 1, 1)
    assert found["best"]["params"] == {"distill.alpha": 0.4}


def test_a_sweep_may_be_named_by_its_folder(storage: Path) -> None:
    assert open_look(storage / "sweeps" / "heights", Path("elsewhere")).name == "heights"
    with pytest.raises(InputError, match=r"SWEEP must be .*\(heights\), got depths"):
        open_look(Path("depths"), storage)


def test_why_a_trial_was_pruned_names_the_rung_and_its_peers(storage: Path) -> None:
    lines = _ask(storage, "why", "heights", "2").splitlines()
    assert lines[0] == "trial 2: pruned"
    assert "  distill.alpha = 0.5" in lines
    told = next(line for line in lines if line.startswith("stopped at step 1"))
    assert "0.4000 is below 0.6250, the 50 % quantile of the 2 trial(s)" in told
    assert [line for line in lines if line.startswith("  trial ")] == [
        "  trial 1: 0.7500",
        "  trial 0: 0.5000",
    ]


def test_why_a_trial_failed_ends_with_its_log(storage: Path) -> None:
    lines = _ask(storage, "why", "heights", "3").splitlines()
    assert "ZeroDivisionError: division by zero" in lines
    assert "ZeroDivisionError: here" in lines
    assert "line 29" in lines
    assert "line 1" not in lines


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1, "ran to its end: dev_uar 0.7500"),
        (4, f"gave its slot back: another process computes teacher-{KEY}"),
        (5, "4 stage requests, 1 computed by it"),
    ],
)
def test_why_says_how_a_trial_stands(storage: Path, number: int, words: str) -> None:
    assert words in _ask(storage, "why", "heights", str(number))


def test_logs_are_the_last_lines(storage: Path) -> None:
    assert _ask(storage, "logs", "heights", "3", "-n", "2").split("\n") == [
        "line 29",
        "ZeroDivisionError: here",
        "",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("why", "heights", "6"), "heights's (0 to 5), got 6"),
        (("logs", "heights", "0"), "trial 0 must have run to have a log"),
    ],
)
def test_trials_that_are_not_there_are_refused(
    storage: Path, words: tuple[str, ...], message: str
) -> None:
    found = CliRunner().invoke(app, [*words, "--storage", str(storage)])
    assert isinstance(found.exception, InputError)
    assert message in str(found.exception)
