"""A run of the teacher alone: the same folder as a whole run's, without a student."""

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from serkd.config import Experiment
from serkd.errors import InputError
from serkd.events import Observer
from serkd.recipe import build_experiment
from serkd.report.run import run_experiment
from serkd.report.sealed import open_test
from serkd.report.tables import results_table
from serkd.report.terminal import print_run
from serkd.stages.catalogue import MODELS, STAGES, list_targets
from serkd.stages.graph import Graph

Run = Any  # what the fixture of this folder gives


@pytest.fixture(scope="module")
def alone(
    run: Run, tiny: Experiment, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """In a storage that knows no log-mel and no student."""
    storage = tmp_path_factory.mktemp("teacher")
    gone = shutil.ignore_patterns("student", "logmel", "runs")
    shutil.copytree(run.storage, storage, dirs_exist_ok=True, ignore=gone)
    results, folder = run_experiment(tiny, "1", storage, "t", Observer(), ["teacher"])
    return folder, results


def test_a_teacher_run_needs_no_stage_of_the_student(tiny: Experiment, run: Run) -> None:
    graph = Graph(STAGES, tiny, run.graph.fold)
    whole, teacher = (
        {str(ref) for ref in graph.closure(list_targets(tiny, models))}
        for models in (tuple(MODELS), ("teacher",))
    )
    assert whole - teacher == {"logmel", "student"}


def test_a_teacher_run_computes_nothing_that_a_whole_run_has_stored(
    alone: tuple[Path, dict[str, Any]], run: Run
) -> None:
    folder, results = alone
    assert all(stage["is_cached"] for stage in results["folds"]["1"]["stages"])
    assert {path.name for path in (folder.parent.parent / "stages").iterdir()} >= {"teacher"}
    assert not (folder.parent.parent / "stages" / "student").exists()
    assert results["models"] == ["teacher"]
    assert results["folds"]["1"]["teacher"] == run.results["folds"]["1"]["teacher"]
    assert "student" not in results["folds"]["1"]
    assert set(results["pooled"]) == {"teacher"}


def test_a_teacher_run_leaves_the_files_of_a_whole_run(
    alone: tuple[Path, dict[str, Any]], run: Run
) -> None:
    folder, results = alone
    assert {path.name for path in folder.iterdir()} == {path.name for path in run.folder.iterdir()}
    assert json.loads((folder / "results.json").read_text()) == results
    events = EventAccumulator(str(folder / "tensorboard" / "fold_1"))
    events.Reload()
    final = {tag for tag in events.Tags()["scalars"] if tag.startswith("final/")}
    assert final == {f"final/teacher_dev_{name}" for name in ("war", "uar", "wf1")}


def test_a_teacher_runs_test_split_can_be_opened(
    alone: tuple[Path, dict[str, Any]], run: Run, tmp_path: Path
) -> None:
    storage = shutil.copytree(alone[0].parent.parent, tmp_path / "storage")
    folder = storage / "runs" / alone[0].name
    results = open_test(folder, None)
    assert set(results["pooled"]) == {"teacher"}
    assert results["folds"]["1"]["teacher"]["test"]["confusion"]
    (look,) = map(json.loads, (storage / "test_log.jsonl").read_text().splitlines())
    assert look["models"] == {"1": run.artifact("teacher_outputs").name}


def test_a_teacher_that_is_gone_is_told_by_its_name(
    alone: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    storage = shutil.copytree(alone[0].parent.parent, tmp_path / "storage")
    shutil.rmtree(storage / "stages" / "teacher_outputs")
    with pytest.raises(InputError, match="the teacher of fold 1 must be stored"):
        open_test(storage / "runs" / alone[0].name, None)
    assert not (storage / "test_log.jsonl").exists()


def _metrics(uar: float) -> dict[str, Any]:
    return {"uar": uar, "war": uar / 2, "wf1": uar / 4, "confusion": [[30, 10], [5, 15]]}


def _shown(models: Sequence[str], folds: Sequence[float]) -> list[list[str]]:
    """The cells of every row of the table."""
    found: dict[str, Any] = {
        str(i): {
            "parameters": dict.fromkeys(models, 1234),
            **{model: {"dev": _metrics(uar)} for model in models},
        }
        for i, uar in enumerate(folds, start=1)
    }
    spread = {f"{m}_{n}": v for m in ("uar", "war", "wf1") for n, v in (("mean", 0.7), ("sd", 0.1))}
    pooled = {model: {"dev": {**_metrics(0.66), **spread}} for model in models}
    results = {
        "split": "dev",
        "shares_speakers": False,
        "models": list(models),
        "folds": found,
        "pooled": pooled,
    }
    out = io.StringIO()
    Console(file=out, width=120).print(results_table(results))
    rows = [line.strip("│").split("│") for line in out.getvalue().splitlines() if "│" in line]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_table_has_every_fold_their_mean_their_sd_and_the_pooled_figure() -> None:
    assert _shown(["teacher"], [0.6, 0.8]) == [
        ["teacher", "1", "60.0", "30.0", "15.0", "60", "1,234"],
        ["teacher", "2", "80.0", "40.0", "20.0", "60", "1,234"],
        ["teacher", "mean of folds", "70.0", "70.0", "70.0", "", ""],
        ["teacher", "sd of folds", "10.0", "10.0", "10.0", "", ""],
        ["teacher", "pooled", "66.0", "33.0", "16.5", "60", ""],
    ]


def test_of_one_fold_there_is_no_mean() -> None:
    rows = _shown(["teacher", "student"], [0.6])
    assert [row[:3] for row in rows] == [["teacher", "1", "60.0"], ["student", "1", "60.0"]]


class _Names(Observer):
    def __init__(self) -> None:
        self.heard: set[str] = set()

    def stage(self, name: str, key: str, *, is_cached: bool, seconds: float) -> None:
        self.heard.add(name)


def test_a_run_of_all_folds_names_each_and_shows_what_inner_folds_say(
    tiny: Experiment, tmp_path: Path
) -> None:
    changes = {"teacher.start": "backbone", "teacher.inner_folds": 2}
    experiment = build_experiment(tiny.model_dump(mode="json"), changes)
    names = _Names()
    results, folder = run_experiment(experiment, "all", tmp_path, "t", names, ["teacher"])
    assert results["name"] == "t"
    for fold, found in results["folds"].items():
        assert {f"teacher fold {fold}", f"teacher inner 2 fold {fold}"} <= names.heard
        (key,) = (s["key"] for s in found["stages"] if s["stage"] == "teacher_inner_outputs")
        inner = tmp_path / "stages" / "teacher_inner_outputs" / key / "inner.json"
        assert found["out_of_fold"] == json.loads(inner.read_text())["train"]
    screen = io.StringIO()
    print_run(Console(file=screen, width=120), results, folder, as_json=False)
    uar = 100 * results["folds"]["1"]["out_of_fold"]["uar"]
    assert f"out of fold  train UAR {uar:.1f}, fold 1" in screen.getvalue()
