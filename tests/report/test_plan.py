"""Plans: counts against what stages really do, warnings, budgets, and what can be told."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serkd.cli import app
from serkd.config import Experiment
from serkd.corpora.protocols import read_folds
from serkd.errors import InputError
from serkd.events import Observer
from serkd.report.plan import make_plan
from serkd.search.plan import Design, plan_experiments
from serkd.stages.catalogue import STAGES, STUDENT
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore

GRID: dict[str, Any] = {
    "sampler": "grid",
    "scheduler": {"name": "none"},
    "budget": {"trials": 100},
    "folds": ["1", "2"],
    "set": {"teacher.start": "backbone"},
    "space": {
        "teacher.stage2.margin": {"choice": [0.1, 0.2]},
        "curriculum.pacing": {"choice": ["none", "root"]},
        "curriculum.start_share": {"choice": [0.2, 0.4], "when": {"curriculum.pacing": "root"}},
        "curriculum.full_at": {"choice": [0.5, 1.0]},
    },
}


def _write(folder: Path, recipe: Path, **changes: Any) -> Path:  # noqa: ANN401
    path = folder / "space.yaml"
    path.write_text(json.dumps({**GRID, **changes, "base": str(recipe)}))
    return path


def test_a_plan_counts_what_running_it_computes(
    tiny: Experiment, tiny_recipe: Path, tmp_path: Path
) -> None:
    """Two of the twelve cells collapse on two others: with pacing none, full_at does nothing."""
    storage = tmp_path / "storage"
    path = _write(tmp_path, tiny_recipe)
    plan = make_plan(path, {}, None, storage, smoke=False)
    assert (plan["trials"], plan["distinct_trials"], plan["cells"]) == (12, 10, 24)
    assert plan["is_exact"]
    assert plan["stored_stages"] == 0
    assert any("curriculum.full_at: has no effect in 4 of 12" in line for line in plan["warnings"])
    small = _write(
        tmp_path, tiny_recipe, folds=["1"], space={"teacher.stage2.margin": {"choice": [0.1, 0.2]}}
    )
    plan = make_plan(small, {}, None, storage, smoke=False)
    store, computed, requests = StageStore(storage), 0, 0
    fold = read_folds(tiny.corpus, tiny.protocol)[0]
    for margin in (0.1, 0.2):
        changes = {"start": "backbone"}
        stage2 = tiny.teacher.stage2.model_copy(update={"margin": margin})
        teacher = tiny.teacher.model_copy(update={"stage2": stage2, **changes})
        graph = Graph(STAGES, tiny.model_copy(update={"teacher": teacher}), fold)
        _, results = graph.run([STUDENT], store, Compute(), Observer())
        requests += len(results)
        computed += sum(not result.is_cached for result in results)
    assert (plan["stage_requests"], plan["distinct_stages"]) == (requests, computed)
    again = make_plan(small, {}, None, storage, smoke=False)
    assert again["stored_stages"] == computed
    assert again["hours"] == again["disk_gb"] == 0
    assert again["guessed"] == []
    # a longer training of the same kind is predicted from the one that is stored
    longer = make_plan(small, {"student.fit.epochs": 20}, None, storage, smoke=False)
    (row,) = [row for row in longer["stages"] if row["stage"] == "student"]
    stored = [
        json.loads(path.read_text())["seconds"]
        for path in storage.glob("stages/student/*/*.json")
        if path.name == "stage.json"
    ]
    assert row["seconds"] == pytest.approx(10 * sum(stored))


def test_seeds_and_folds_multiply_what_depends_on_them(tiny: Experiment, tmp_path: Path) -> None:
    folds = read_folds(tiny.corpus, tiny.protocol)
    one = plan_experiments([tiny], Design(folds[:1], (0,), 1), tiny, tmp_path)
    many = plan_experiments([tiny], Design(folds, (0, 1), 1), tiny, tmp_path)
    assert many["stage_requests"] == 6 * one["stage_requests"]
    counts = {row["stage"]: row["distinct"] for row in many["stages"]}
    assert (counts["features"], counts["logmel"], counts["student"]) == (1, 1, 6)


def test_over_budget_ends_with_3_and_says_by_how_much(tiny_recipe: Path, tmp_path: Path) -> None:
    path = _write(tmp_path, tiny_recipe, budget={"trials": 3, "hours": 1e-6, "disk_gb": 1e-9})
    arguments = ["plan", str(path), "--storage", str(tmp_path / "none"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 3, result.output
    plan = json.loads(result.stdout)
    assert len(plan["over_budget"]) == 2
    assert any("the grid has 12 cells, budget.trials is 3" in line for line in plan["warnings"])
    assert not (tmp_path / "none").exists()
    path = _write(tmp_path, tiny_recipe)
    assert CliRunner().invoke(app, [*arguments[:1], str(path), *arguments[2:]]).exit_code == 0


def test_what_is_odd_is_said(tiny_recipe: Path, tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        tiny_recipe,
        set={},
        space={
            "units.num_clusters": {"choice": [[4], [512]]},
            "student.width": {"int": [16, 32], "step": 8},
            "student.num_heads": {"choice": [2, 4]},
        },
        constraints=["student.width < 32"],
    )
    warnings = make_plan(path, {}, None, tmp_path / "none", smoke=False)["warnings"]
    for said in (
        "student.width: the base's 16 is at the edge of the range 16 to 32",
        "student.num_heads: has no effect",
        "units.num_clusters: 512 has about",
        "are not legal: must keep 'student.width < 32'",
    ):
        assert any(said in line for line in warnings), (said, warnings)
    with pytest.raises(InputError, match="no trial is legal"):
        bad = _write(tmp_path, tiny_recipe, constraints=["student.width < 3"])
        make_plan(bad, {}, None, tmp_path / "none", smoke=False)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "nsga2"])
def test_every_sampler_takes_conditional_spaces(
    tiny_recipe: Path, tmp_path: Path, sampler: str
) -> None:
    path = _write(tmp_path, tiny_recipe, sampler=sampler, budget={"trials": 6})
    plan = make_plan(path, {}, None, tmp_path / "none", smoke=False)
    assert plan["trials"] == 6
    assert plan["is_exact"] == (sampler in ("random", "qmc"))


def test_one_fold_tells_no_chance_and_more_folds_tell_smaller_differences(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    found = [
        make_plan(
            _write(tmp_path, tiny_recipe, folds=folds, seeds=seeds), {}, None, tmp_path, smoke=False
        )["detectable"]
        for folds, seeds in ((["1"], [0]), ("all", [0]), ("all", [0, 1, 2]))
    ]
    assert found[0] is None
    assert found[1] > found[2] > 0
