"""Ablations in worlds whose effects are known: verdicts, error rates, going on after a kill."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import Planted, planted_study, run_planted

from serkd.errors import SweepError
from serkd.report.answer import write_report
from serkd.report.paired import add_verdicts
from serkd.report.statistics import corrected_t_test, equivalence_p
from serkd.search.cells import arm_cells, unique_cells

FOLDS, SEEDS = 10, 5
EFFECTS = {"plus": 0.06, "minus": -0.06, "same": 0.0}


def _arms() -> tuple[dict[str, Any], dict[tuple[str, Any], float]]:
    """19 arms besides the reference, which with 10 folds and 5 seeds are 1,000 cells."""
    kinds = [*["plus"] * 5, *["minus"] * 5, *["same"] * 9]
    arms = {f"{kind} {i}": {"student.width": 200 + i} for i, kind in enumerate(kinds)}
    effects = {("student.width", 200 + i): EFFECTS[kind] for i, kind in enumerate(kinds)}
    return arms, effects


def test_a_thousand_cells_with_planted_effects_end_in_the_right_verdicts(tmp_path: Path) -> None:
    """Effects of six points are found and point the right way; what is alike is never "better".

    Of nine arms that are worth nothing, a family-wise level of 5 % allows one false claim in twenty
    such ablations; with a margin of three points most are found to be equivalent.
    """
    arms, effects = _arms()
    file = {"design": "list", "arms": arms, "seeds": [*range(SEEDS)], "margin": 0.03}
    study = planted_study(file)
    folds = [str(i) for i in range(1, FOLDS + 1)]
    groups = [arm_cells(arm.experiment, folds, study.file.seeds) for arm in study.arms]
    assert len(unique_cells(groups)) == 1_000
    source = Planted(effects, arm_sd=0.003)
    report = run_planted(file, source, tmp_path / "planted", FOLDS)
    assert len(set(source.computed)) == len(source.computed) == report["num_done"] == 1_000
    verdicts: dict[str, list[str]] = {kind: [] for kind in EFFECTS}
    for row in report["comparison"]["arms"][1:]:
        verdicts[row["name"].split()[0]].append(row["against_reference"]["verdict"])
    assert verdicts["plus"] == ["helps"] * 5
    assert verdicts["minus"] == ["hurts"] * 5
    assert set(verdicts["same"]) <= {"equivalent", "undecided"}
    assert verdicts["same"].count("equivalent") >= 5


def test_the_estimated_difference_is_the_planted_one(tmp_path: Path) -> None:
    """Within three standard errors, with noise of arms off: what is left is drawing utterances."""
    file = {"design": "list", "arms": {"wide": {"student.width": 256}}, "seeds": [0, 1, 2]}
    source = Planted({("student.width", 256): 0.05}, arm_sd=0.0, seed_sd=0.0)
    row = run_planted(file, source, tmp_path / "p", 6)["comparison"]["arms"][1]
    cells = 6 * 3 * source.speakers * source.utterances
    error = np.sqrt(2 * 0.25 / cells)
    assert row["against_reference"]["difference"] == pytest.approx(0.05, abs=3 * error)


def _correlated(
    rng: np.random.Generator, num_arms: int, num_folds: int, ratio: float
) -> np.ndarray:
    """(A, J) differences without any effect, whose correlation is that of overlapping folds.

    Nadeau & Bengio take n_test / (n_test + n_train) for the correlation of two folds.
    """
    rho = ratio / (1 + ratio)
    shared = rng.normal(size=(num_arms, 1))
    own = rng.normal(size=(num_arms, num_folds))
    return 0.02 * (np.sqrt(rho) * shared + np.sqrt(1 - rho) * own)


@pytest.mark.parametrize(("num_folds", "ratio"), [(5, 1 / 3), (10, 1 / 8)])
def test_arms_that_are_worth_nothing_are_rarely_told_to_help_or_hurt(
    num_folds: int, ratio: float
) -> None:
    """At most 6 of 100 ablations of five null arms make any claim, at a level of 5 %.

    The speakers' interval is made to agree always, so that the rule for folds stands alone.
    """
    rng, num_ablations, false = np.random.default_rng(20), 1_500, 0
    for _ in range(num_ablations):
        tests = []
        for differences in _correlated(rng, 5, num_folds, ratio):
            found = corrected_t_test(differences, ratio)
            side = float(np.sign(found.mean))
            tests.append(
                {
                    "difference": found.mean,
                    "p": found.p,
                    "equivalence_p": equivalence_p(found, 1e-6),
                    "speaker_interval": [min(side, 2 * side), max(side, 2 * side)],
                }
            )
        add_verdicts(tests, 1e-6, is_one_fold=False, num_tests=len(tests))
        false += any(test["verdict"] in ("helps", "hurts") for test in tests)
    assert false / num_ablations <= 0.06


def _without_times(report: Any) -> Any:  # noqa: ANN401  any tree of JSON
    if isinstance(report, dict):
        return {k: _without_times(v) for k, v in report.items() if not k.startswith("seconds")}
    return [_without_times(each) for each in report] if isinstance(report, list) else report


def test_a_sweep_that_stops_leaves_a_partial_report(tmp_path: Path) -> None:
    file = {"design": "list", "arms": {"wide": {"student.width": 256}, "plain": {}}}
    source = Planted({}, stop_after=4, stop_with=SweepError)
    with pytest.raises(SweepError):
        run_planted(file, source, tmp_path / "x", 5)
    report = json.loads((tmp_path / "x" / "report" / "report.json").read_text())
    assert report["num_cells"] == 10


def test_killed_in_the_middle_and_started_again_the_report_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tuning included, in a world with noise everywhere; nothing is computed twice."""
    space = {"student.fit.lr": {"float": [1e-4, 1e-2], "log": True}}
    file = {
        "design": "list",
        "arms": {"wide": {"student.width": 256}, "deep": {"student.depth": 6}},
        "seeds": [0, 1],
        "retune": {"trials": 3, "space": space},
    }
    effects = {("student.width", 256): 0.03}
    whole = Planted(effects)
    for side in ("whole", "torn"):
        (tmp_path / side).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    expected = run_planted(file, whole, Path("x"), 4)
    monkeypatch.chdir(tmp_path / "torn")
    done: list[str] = []
    for _ in range(3):  # dies twice
        source = Planted(effects, computed=list(done), stop_after=len(done) + 11)
        try:
            found = run_planted(file, source, Path("x"), 4)
        except KeyboardInterrupt:
            done = source.computed
            continue
        break
    assert len(done) == 22  # of 33: killed while tuning and while running
    assert len(set(source.computed)) == len(source.computed) == len(whole.computed)
    assert _without_times(found) == _without_times(expected)
    for name in ("report.md", "report.tex", "report.html"):
        paths = [tmp_path / side / "x" / "report" / name for side in ("whole", "torn")]
        texts = [path.read_text() for path in paths]
        assert texts[0] == texts[1], name


def test_a_report_in_the_middle_says_so_and_makes_no_claim_of_one_fold(tmp_path: Path) -> None:
    file = {"design": "list", "arms": {"wide": {"student.width": 256}}}
    folder = tmp_path / "x"
    full = run_planted(file, Planted({("student.width", 256): 0.2}), folder, 6)
    assert full["comparison"]["arms"][1]["against_reference"]["verdict"] == "helps"
    cells = full["comparison"]["arms"][1]["cells"]
    for cell in cells[1:]:
        (folder / "cells" / f"{cell['cell']}.json").unlink()
    partial = write_report(folder)
    assert partial["is_partial"]
    assert (partial["num_done"], partial["num_cells"]) == (7, 12)
    row = partial["comparison"]["arms"][1]["against_reference"]
    assert row["folds"] == ["1"]
    assert row["verdict"] == "undecided"
    assert "Partial" in (folder / "report" / "report.html").read_text()
    assert json.loads((folder / "report" / "report.json").read_text()) == partial
