"""`serkd run` as a user starts it: all folds, a second time, and killed on the way."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

# enough epochs for a killed training to have some behind it and some before it
LONGER = {"teacher.stage2.fit.epochs": 30, "student.fit.epochs": 30}
STAGES = {
    "features 0",
    "logmel",
    "extractor",
    "hidden 2",
    "centroids 2/4",
    "centroids 2/8",
    "units 2/4",
    "units 2/8",
    "teacher_units",
    "teacher",
    "teacher_outputs",
    "student",
}
Results = dict[str, Any]


def _start(recipe: Path, storage: Path, fold: str) -> "subprocess.Popen[str]":
    """`serkd run` in a session of its own, so that it can be killed with all that it starts."""
    overrides = [text for k, v in LONGER.items() for text in ("--set", f"{k}={v}")]
    command = [sys.executable, "-m", "serkd", "run", str(recipe), *overrides]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.Popen(
        [*command, "--fold", fold, "--storage", str(storage), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )


def _kill(process: "subprocess.Popen[str]") -> None:
    """SIGKILL to the session that `_start` made, and to nothing else."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _finish(process: "subprocess.Popen[str]") -> Results:
    try:
        out, err = process.communicate(timeout=800)  # on a machine that is shared
    except BaseException:
        _kill(process)
        raise
    assert process.returncode == 0, err
    return json.loads(out)


@dataclass(frozen=True)
class _Finished:
    storage: Path
    results: Results


@pytest.fixture(scope="module")
def whole(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Finished]:
    """All folds, without interruption."""
    storage = tmp_path_factory.mktemp("whole")
    yield _Finished(storage, _finish(_start(tiny_recipe, storage, "all")))


def _check_metrics(metrics: Mapping[str, Any], num_utterances: int) -> None:
    confusion = np.array(metrics["confusion"])
    assert confusion.shape == (4, 4)
    assert confusion.sum() == num_utterances
    recall = np.diag(confusion) / confusion.sum(axis=1)
    assert metrics["per_class_recall"] == pytest.approx(recall.tolist())
    assert metrics["uar"] == pytest.approx(recall.mean())
    assert metrics["war"] == pytest.approx(np.trace(confusion) / num_utterances)
    assert 0.0 <= metrics["wf1"] <= 1.0


def test_all_folds_give_every_promised_number(whole: _Finished) -> None:
    results = whole.results
    assert results["class_names"] == ["angry", "happy", "neutral", "sad"]
    assert set(results["folds"]) == {"1", "2", "3"}
    for found in results["folds"].values():
        assert {stage["stage"] for stage in found["stages"]} == STAGES
        assert found["parameters"]["teacher"] > found["parameters"]["student"] > 0
        for model in ("teacher", "student"):
            assert set(found[model]) == {"dev"}  # the test split is sealed
            _check_metrics(found[model]["dev"], 16)
    for model in ("teacher", "student"):
        _check_metrics(results["pooled"][model]["dev"], 48)


def test_results_are_in_the_runs_folder_as_printed(whole: _Finished) -> None:
    (folder,) = (whole.storage / "runs").iterdir()
    assert json.loads((folder / "results.json").read_text()) == whole.results
    for name in ("confusion.png", "experiment.json", "folds.json"):
        assert (folder / name).stat().st_size > 0
    for fold in ("1", "2", "3"):
        assert list((folder / "tensorboard" / f"fold_{fold}").glob("events.out.tfevents.*"))


def test_folds_share_what_no_fold_is_fitted_on(whole: _Finished) -> None:
    rows = [stage for found in whole.results["folds"].values() for stage in found["stages"]]
    computed = [stage["stage"] for stage in rows if not stage["is_cached"]]
    for name in STAGES:
        assert computed.count(name) == (1 if name in {"features 0", "logmel"} else 3)
    folders = {path.parent for path in whole.storage.glob("stages/*/*/stage.json")}
    assert {path.name for path in folders} == {stage["key"] for stage in rows}
    assert len(folders) == len(computed)
    assert all(stage["seconds"] >= 0 for stage in rows)


def _drop_stages(results: Results) -> Results:
    """Everything but how the stages were had, and what is measured anew: the student's latency."""
    folds = {
        fold: {name: value for name, value in found.items() if name != "stages"}
        for fold, found in results["folds"].items()
    }
    timed = ("latency_s", "real_time_factor")
    cost = {
        model: {name: value for name, value in found.items() if name not in timed}
        for model, found in results["cost"].items()
    }
    return {**results, "folds": folds, "cost": cost}


def test_the_same_run_again_computes_nothing(whole: _Finished, tiny_recipe: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (whole.storage / "stages").rglob("*")}
    again = _finish(_start(tiny_recipe, whole.storage, "all"))
    assert {p: p.stat().st_mtime_ns for p in (whole.storage / "stages").rglob("*")} == before
    assert _drop_stages(again) == _drop_stages(whole.results)
    rows = [stage for found in again["folds"].values() for stage in found["stages"]]
    assert len(rows) == 3 * len(STAGES)
    assert all(stage["is_cached"] for stage in rows)


def _run_until(recipe: Path, storage: Path, pattern: str) -> None:
    """Kill a run as soon as something below its work folder matches."""
    process = _start(recipe, storage, "1")
    try:
        while not list((storage / "stages" / ".work").glob(pattern)):
            try:
                process.wait(timeout=0.005)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"ended before {pattern} was there: {process.communicate()[1]}")
    finally:
        _kill(process)


def _artifacts(storage: Path) -> dict[str, bytes]:
    """Contents of all artifacts, apart from what says how long they took."""
    found = {}
    for path in sorted(storage.glob("stages/*/*/*")):
        if path.name in ("stage.json", "extract.json"):  # say how long this run took
            continue
        content = path.read_bytes()
        if path.name == "history.json":
            records = json.loads(content)
            content = json.dumps([{**record, "seconds": 0} for record in records]).encode()
        found[str(path.relative_to(storage))] = content
    return found


def test_a_run_that_is_killed_three_times_ends_as_if_it_never_had_been(
    whole: _Finished, tiny_recipe: Path, tmp_path: Path
) -> None:
    """In clustering, in the teacher's training and in the student's, each time going on."""
    for stage, pattern in (
        ("centroids", "centroids-*/artifact"),
        ("teacher", "teacher-*/checkpoints/epoch-*"),
        ("student", "student-*/checkpoints/epoch-*"),
    ):
        _run_until(tiny_recipe, tmp_path, pattern)
        assert not list(tmp_path.glob(f"stages/{stage}/*/stage.json")), "killed too late"
    results = _finish(_start(tiny_recipe, tmp_path, "1"))
    computed = {row["stage"] for row in results["folds"]["1"]["stages"] if not row["is_cached"]}
    assert computed == {"student"}
    assert _drop_stages(results)["folds"]["1"] == _drop_stages(whole.results)["folds"]["1"]
    expected = _artifacts(whole.storage)
    for name, content in _artifacts(tmp_path).items():
        assert content == expected[name], name
    assert not [path for path in (tmp_path / "stages" / ".work").iterdir() if path.is_dir()]
