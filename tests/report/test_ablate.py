"""Ablations through the engine: cells are trials, stages are shared, nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from serkd.errors import SweepError
from serkd.events import Observer
from serkd.report.ablate import refresh_report, start_ablation
from serkd.report.look import open_look
from serkd.search.designs import Wanted
from serkd.search.ledger import Ledger

pytestmark = pytest.mark.slow

FILE = {
    "question": "Does the teacher help?",
    "design": "list",
    "arms": {"labels": {"distill.alpha": 0.0}, "taught": {"distill.alpha": 0.5}},
    "reference": "labels",
    "set": {"teacher.start": "backbone", "curriculum.pacing": "none"},
    "folds": ["1", "2"],
    "seeds": [0, 1],
}
BROKEN = {"teacher.start": "units", "units.num_clusters": [1_000_000]}


def _write(folder: Path, recipe: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "arms.yaml"
    path.write_text(json.dumps({**FILE, "base": str(recipe), **changes}))
    return path


def _without_times(report: Any) -> Any:  # noqa: ANN401  any tree of JSON
    if isinstance(report, dict):
        return {k: _without_times(v) for k, v in report.items() if not k.startswith("seconds")}
    return [_without_times(each) for each in report] if isinstance(report, list) else report


def test_cells_are_trials_that_share_stages_and_failed_ones_are_tried_again(
    ray_cluster: None, tiny_recipe: Path, tmp_path: Path
) -> None:
    arms = {**FILE["arms"], "broken": BROKEN}  # type: ignore[dict-item]
    path, storage = _write(tmp_path, tiny_recipe, arms=arms), tmp_path / "storage"
    report, folder = start_ablation(path, {}, storage, Observer())
    assert (report["num_cells"], report["num_done"]) == (12, 8)
    (failures,) = report["failures"]
    assert (failures["kind"], failures["count"]) == ("InputError", 4)
    assert "units.num_clusters must be at most" in failures["example"]
    ledger = Ledger(folder / "ledger.jsonl")
    trials = ledger.replay().current()
    labels = [tuple(trial.label.values()) for trial in trials]
    assert Counter(arm for arm, *_ in labels) == dict.fromkeys(arms, 4)
    assert len(set(labels)) == 12
    computed = [key for trial in trials for key in trial.computed]
    stored = {p.parent.name for p in storage.glob("stages/*/*/stage.json")}
    assert len(computed) == len(set(computed))  # by whichever trial needed it first
    # the frames of the corpus were there before the trials
    assert {p.parent.parent.name for p in storage.glob("stages/*/*/stage.json")} >= {"features"}
    assert set(computed) < stored
    arms_shown = {path.name for path in (folder / "tensorboard" / "arms").iterdir()}
    assert arms_shown == set(arms)

    again, _ = start_ablation(path, {}, storage, Observer())
    assert again == report
    events = Counter(r["event"] for r in ledger.read())
    assert (events["finished"], events["failed"], events["again"]) == (8, 8, 4)
    assert refresh_report(folder) == report
    status = open_look(folder, storage).status
    assert (status.counts["finished"], status.counts["failed"], status.total) == (8, 4, 12)

    # a part of it that is there: nothing is run, and the report is of all that was asked for
    some, _ = start_ablation(path, {}, storage, Observer(), wanted=Wanted(("taught",), (1,)))
    assert some["comparison"]["arms"] == report["comparison"]["arms"]
    assert Counter(r["event"] for r in ledger.read())["finished"] == 8


def test_a_bug_that_all_cells_have_stops_it_and_the_report_says_so(
    ray_cluster: None, tiny_recipe: Path, tmp_path: Path
) -> None:
    path = _write(
        tmp_path,
        tiny_recipe,
        set=BROKEN,
        arms={"a": {}, "b": {"distill.alpha": 0.1}},
        reference="a",
    )
    with pytest.raises(SweepError, match="the first 3 trials failed and none did well"):
        start_ablation(path, {}, tmp_path / "storage", Observer())
    (found,) = (tmp_path / "storage").glob("sweeps/*/report/report.json")
    report = json.loads(found.read_text())
    assert report["is_partial"]
    assert report["failures"][0]["count"] >= 3


def _start(folder: Path, file: Path) -> subprocess.Popen[bytes]:
    import ray

    environment = {
        **os.environ,
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_AUTH_MODE": "token",
    }
    command = ["ablate", str(file), "--storage", "storage", "--quiet"]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "serkd", *command],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )


def test_killed_and_started_again_the_report_is_the_same(
    ray_cluster: None, tiny_recipe: Path, tmp_path: Path
) -> None:
    file = _write(tmp_path / "file", tiny_recipe)
    for name in ("whole", "torn"):
        (tmp_path / name).mkdir()
    assert _start(tmp_path / "whole", file).wait() == 0, (tmp_path / "whole" / "log").read_text()
    (whole,) = (tmp_path / "whole" / "storage" / "sweeps").iterdir()
    torn = tmp_path / "torn" / "storage" / "sweeps" / whole.name
    torn.mkdir(parents=True)
    # costs are measured once for an ablation, and latency is never the same twice
    (torn / "cost.json").write_bytes((whole / "cost.json").read_bytes())

    ledger = Ledger(torn / "ledger.jsonl")
    driver = _start(tmp_path / "torn", file)
    while not any(r["event"] == "finished" for r in ledger.read()):
        assert driver.poll() is None, (tmp_path / "torn" / "log").read_text()
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    assert len(ledger.replay().ended()) < 8
    assert _start(tmp_path / "torn", file).wait() == 0, (tmp_path / "torn" / "log").read_text()

    texts = [(folder / "report" / "report.json").read_text() for folder in (whole, torn)]
    expected, found = map(json.loads, texts)
    assert expected["num_done"] == 8
    assert _without_times(found) == _without_times(expected)
    events = Counter((r["event"], r.get("trial")) for r in ledger.read())
    assert all(events["proposed", number] == events["finished", number] == 1 for number in range(8))
