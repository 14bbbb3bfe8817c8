"""An ablation in use: opened on the sealed split, reproduced, tuned, on a sweep's best trial."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serkd.cli import app
from serkd.errors import InputError
from serkd.events import Observer
from serkd.report.ablate import start_ablation
from serkd.report.reproduce import reproduce_row
from serkd.report.sealed_arms import open_arms
from serkd.report.sweep import start_sweep

pytestmark = pytest.mark.slow

Smoke = tuple[dict[str, Any], Path]  # report and folder
SHIPPED = Path(__file__).parents[2] / "search_spaces" / "ablation_smoke.yaml"
SMALL = {"teacher.start": "backbone", "curriculum.pacing": "none", "student.fit.epochs": 1}
ARMS = {
    "question": "Does the teacher help?",
    "design": "list",
    "arms": {"labels": {"distill.alpha": 0.0}, "taught": {"distill.alpha": 0.5}},
    "reference": "labels",
    "set": SMALL,
    "folds": ["1", "2"],
    "seeds": [0],
}


def _write(path: Path, **content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def smoke(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    """The shipped ablation in its reduced size."""
    storage = tmp_path_factory.mktemp("ablation") / "storage"
    return start_ablation(SHIPPED, {}, storage, Observer(), is_smoke=True)


def test_the_shipped_smoke_ablation_ends_in_every_form_of_its_report(
    smoke: Smoke,
) -> None:
    report, folder = smoke
    assert not report["is_partial"]
    assert not report["failures"]
    assert report["stamp"]["precisions"] == ["float32"]
    assert {"torch", "serkd"} <= report["stamp"]["versions"].keys()
    names = [arm["name"] for arm in report["comparison"]["arms"]]
    assert names == ["reference", "without distillation", "without curriculum"]
    files = {path.name for path in (folder / "report").iterdir()}
    assert {"report.json", "report.html", "report.md", "report.tex"} <= files
    pictures = [path for path in (folder / "report").rglob("*") if path.suffix in (".png", ".pdf")]
    assert {path.suffix for path in pictures} == {".png", ".pdf"}
    page = (folder / "report" / "report.html").read_text()
    assert all(name in page for name in names)
    assert "http://" not in page.replace("http://www.w3.org", "")  # self-contained
    assert 'src="http' not in page


def test_a_row_is_reproduced_bit_for_bit_and_a_wrong_one_is_refused(
    smoke: Smoke, tmp_path: Path
) -> None:
    _, folder = smoke
    path = folder / "report" / "report.json"
    found = reproduce_row(path, 1, "1", None, tmp_path / "again", Observer())
    assert found["is_equal"]
    assert found["arm"] == "without distillation"
    (cell,) = found["cells"]
    assert cell["report"] == cell["now"]
    with pytest.raises(InputError, match="--row must be 0 to 2"):
        reproduce_row(path, 3, None, None, tmp_path / "none", Observer())
    with pytest.raises(InputError, match="must name a finished cell"):
        reproduce_row(path, 0, "7", None, tmp_path / "none", Observer())
    with pytest.raises(InputError, match="must be an empty folder"):
        reproduce_row(path, 0, None, None, tmp_path / "again", Observer())
    assert not (tmp_path / "none").exists()
    # a report that says something else than what was computed is found out
    changed = json.loads(path.read_text())
    changed["comparison"]["arms"][1]["cells"][0]["confusions"][0][0][0] += 1
    other = _write(tmp_path / "report.json", **changed)
    assert not reproduce_row(other, 1, "1", None, tmp_path / "other", Observer())["is_equal"]


def test_arms_are_opened_on_the_sealed_split_and_the_look_is_logged(
    smoke: Smoke,
) -> None:
    report, folder = smoke
    assert report["test"] is None
    runner = CliRunner()
    asked = ["test", str(folder), "--arm", "without curriculum", "--json"]
    result = runner.invoke(app, asked)
    assert result.exit_code == 0, result.output
    shown = json.loads((folder / "report" / "report.json").read_text())
    arms = [arm["name"] for arm in shown["test"]["arms"]]
    assert arms == ["reference", "without curriculum"]
    log = (folder.parent.parent / "test_log.jsonl").read_text().splitlines()
    assert len(log) == 1
    assert "without curriculum" in log[0]
    with pytest.raises(InputError, match="nobody"):
        open_arms(folder, ["nobody"])
    assert len((folder.parent.parent / "test_log.jsonl").read_text().splitlines()) == 1
    # the same ablation again keeps what was seen
    again, _ = start_ablation(SHIPPED, {}, folder.parent.parent, Observer(), is_smoke=True)
    assert again["test"] == shown["test"]


def test_nuisance_keys_are_tuned_alike_in_every_arm(
    ray_cluster: None, tiny_recipe: Path, tmp_path: Path
) -> None:
    retune = {"trials": 3, "space": {"student.fit.lr": {"float": [1e-4, 1e-1], "log": True}}}
    path = _write(tmp_path / "tuned.yaml", **ARMS, base=str(tiny_recipe), retune=retune)
    report, folder = start_ablation(path, {}, tmp_path / "storage", Observer())
    assert (report["num_cells"], report["num_done"]) == (4, 4)
    outcomes = [json.loads(p.read_text()) for p in (folder / "cells").glob("*.json")]
    tuning = [each for each in outcomes if each["seed"] == 1_000]
    assert len(tuning) == 2 * 3  # each arm, each trial, on the first fold
    assert {each["fold"] for each in tuning} == {"1"}
    assert len(outcomes) == 4 + len(tuning)
    for arm in report["comparison"]["arms"]:
        tuned = arm["tuned"]
        assert not tuned or 1e-4 <= tuned["student.fit.lr"] <= 1e-1
        rate = arm["experiment"]["student"]["fit"]["lr"]
        assert rate == tuned.get("student.fit.lr", rate)


def test_an_ablation_stands_on_the_best_trial_of_a_sweep(
    ray_cluster: None, tiny_recipe: Path, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    sweep = _write(
        tmp_path / "rates.yaml",
        base=str(tiny_recipe),
        budget={"trials": 2},
        sampler="grid",
        scheduler={"name": "none"},
        space={"student.fit.lr": {"choice": [1e-4, 1e-2]}},
    )
    start_sweep(sweep, SMALL, None, storage, Observer())
    (found,) = (storage / "sweeps").glob("rates*")
    path = _write(tmp_path / "on-best.yaml", **ARMS, best_of=str(found))
    report, _ = start_ablation(path, {}, storage, Observer())
    best = json.loads((found / "results.json").read_text())["best"]
    rates = {arm["experiment"]["student"]["fit"]["lr"] for arm in report["comparison"]["arms"]}
    assert rates == {best["params"]["student.fit.lr"]}
    empty = _write(tmp_path / "on-none.yaml", **ARMS, best_of=str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="nothing"):
        start_ablation(empty, {}, storage, Observer())
