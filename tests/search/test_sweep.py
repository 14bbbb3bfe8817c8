"""Sweeps over the tiny experiment: sharing, going on, failing, running in parallel."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serkd.config import Experiment
from serkd.corpora.protocols import read_folds
from serkd.errors import InputError
from serkd.events import Observer
from serkd.recipe import build_experiment
from serkd.report.sealed import open_test
from serkd.report.sweep import start_sweep
from serkd.search.curves import read_curves
from serkd.search.ledger import Ledger
from serkd.search.space import Space
from serkd.search.tuner import open_sweep
from serkd.stages.catalogue import STAGES, STUDENT
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.threads import set_threads

pytestmark = pytest.mark.slow

SHARING = {
    "budget": {"trials": 3},
    "sampler": "random",
    "seed": 1,  # draws both choices of either key in three trials
    "scheduler": {"name": "none"},
    "space": {
        "units.num_clusters": {"choice": [[4], [4, 8]]},
        "distill.alpha": {"float": [0.1, 0.9]},
        "curriculum.pacing": {"choice": ["none", "root"]},
        "curriculum.start_share": {"float": [0.2, 0.6], "when": {"curriculum.pacing": "root"}},
    },
}
FAILING = {
    "budget": {"trials": 3},
    "sampler": "grid",
    "scheduler": {"name": "none"},
    "space": {"units.num_clusters": {"choice": [[1_000_000], [4], [8]]}},
}


class _Counter(Observer):
    """Counts what the sweep itself computes before its trials start."""

    def __init__(self) -> None:
        self.computed: list[str] = []

    def stage(self, name: str, key: str, *, is_cached: bool, seconds: float) -> None:
        if not is_cached:
            self.computed.append(name)


@dataclass
class _Swept:
    path: Path
    storage: Path
    prepared: list[str]
    summary: dict[str, Any]

    @property
    def ledger(self) -> Ledger:
        return Ledger(Path(self.summary["folder"]) / "ledger.jsonl")

    def again(self, trials: int | None = None) -> dict[str, Any]:
        return start_sweep(self.path, {}, trials, self.storage, Observer())

    def stage_folders(self) -> set[Path]:
        found = self.storage.glob("stages/*/*/stage.json")
        return {path.parent for path in found}


def _sweep(folder: Path, recipe: Path, space: Mapping[str, Any]) -> _Swept:
    path, storage, counter = folder / "space.yaml", folder / "storage", _Counter()
    path.write_text(json.dumps({**space, "base": str(recipe)}))
    summary = start_sweep(path, {}, None, storage, counter)
    return _Swept(path, storage, counter.computed, summary)


@pytest.fixture(scope="module")
def swept(
    ray_cluster: None, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[_Swept]:
    yield _sweep(tmp_path_factory.mktemp("sharing"), tiny_recipe, SHARING)


def test_every_trial_finishes_and_the_best_is_the_best(swept: _Swept) -> None:
    trials = swept.summary["trials"]
    assert [trial["trial"] for trial in trials] == [0, 1, 2]
    assert all(trial["state"] == "finished" and trial["epochs"] == 2 for trial in trials)
    best = max(trials, key=lambda trial: trial["value"])
    assert swept.summary["best"]["value"] == best["value"]
    written = json.loads((Path(swept.summary["folder"]) / "results.json").read_text())
    assert written == swept.summary


def test_the_value_of_a_trial_is_its_students_best_dev_uar(
    swept: _Swept, tiny_recipe: Path
) -> None:
    """Built again from what the ledger says was tried, all is found where the trial left it."""
    data = json.loads(tiny_recipe.read_text())
    for trial in swept.summary["trials"]:
        experiment = build_experiment(data, trial["params"])
        fold = read_folds(experiment.corpus, experiment.protocol)[0]
        graph, store = Graph(STAGES, experiment, fold), StageStore(swept.storage)
        for ref in graph.closure([STUDENT]):
            assert store.find(ref.stage, graph.key(ref)) is not None
        found = store.find("student", graph.key(STUDENT))
        assert found is not None
        history = json.loads((found.folder / "history.json").read_text())
        assert trial["value"] == max(record["dev_uar"] for record in history)


def test_trials_share_stages_and_every_stage_is_computed_once(swept: _Swept) -> None:
    trials = swept.summary["trials"]
    computed = sum(trial["stages_computed"] for trial in trials)
    assert len(swept.stage_folders()) == len(swept.prepared) + computed
    assert swept.summary["stages_computed"] == computed
    assert computed < swept.summary["stage_requests"]
    # no searched key touches these, so they are made once, before any trial
    assert sorted(swept.prepared) == ["extractor", "features 0", "hidden 2", "logmel"]
    assert all(trial["stages_computed"] >= 1 for trial in trials)


def test_only_active_keys_are_in_a_trials_record(swept: _Swept) -> None:
    pacings = {trial["params"]["curriculum.pacing"] for trial in swept.summary["trials"]}
    assert pacings == {"none", "root"}
    for trial in swept.summary["trials"]:
        is_root = trial["params"]["curriculum.pacing"] == "root"
        assert ("curriculum.start_share" in trial["params"]) == is_root
        assert trial["params"]["units.num_clusters"] in ([4], [4, 8])


def test_trials_run_in_parallel(swept: _Swept) -> None:
    spans: dict[int, dict[str, float]] = {}
    for record in swept.ledger.read():
        if record["event"] in ("started", "finished"):
            spans.setdefault(record["trial"], {})[record["event"]] = record["time"]
    overlaps = [
        (first, second)
        for first in spans
        for second in spans
        if first < second and spans[second]["started"] < spans[first]["finished"]
    ]
    assert overlaps


def test_a_sweep_writes_curves_for_every_trial_and_hyper_parameters(swept: _Swept) -> None:
    board = Path(swept.summary["folder"]) / "tensorboard"
    for trial in swept.summary["trials"]:
        name = f"trial-{trial['trial']:05d}"
        for folder in (board / "best" / name, board / "hparams" / name):
            assert list(folder.glob("events.out.tfevents.*"))
        (events,) = (board / "best" / name).glob("events.out.tfevents.*")
        assert b"confusion_dev/student" in events.read_bytes()  # a picture
    assert not list(board.glob("running/*"))


def test_a_sweep_keeps_every_epoch_of_its_finished_trials(swept: _Swept) -> None:
    rows = read_curves(Path(swept.summary["folder"])).to_pylist()
    for trial in swept.summary["trials"]:
        own = [row for row in rows if row["trial"] == trial["trial"]]
        assert [row["epoch"] for row in own] == [1, 2]
        assert max(row["dev_uar"] for row in own) == trial["value"]


def test_asking_again_runs_nothing_and_asking_for_one_more_runs_one(swept: _Swept) -> None:
    lines, folders = swept.ledger.read(), swept.stage_folders()
    again = swept.again()
    assert swept.ledger.read() == lines
    assert swept.stage_folders() == folders
    assert again == swept.summary
    more = swept.again(trials=4)
    assert more["folder"] == swept.summary["folder"]
    new = swept.ledger.read()[len(lines) :]
    events = [record["event"] for record in new if record.get("trial") == 3]
    assert [event for event in events if event != "stages"] == ["proposed", "started", "finished"]
    assert {record.get("trial", 3) for record in new} == {3}
    assert more["trials"][:3] == swept.summary["trials"]
    alphas = [trial["params"]["distill.alpha"] for trial in more["trials"]]
    assert len(set(alphas)) == 4  # a resumed random search must not repeat itself
    new_folders = swept.stage_folders() - folders
    assert len(new_folders) == more["trials"][3]["stages_computed"]


def test_two_sweeps_at_once_on_one_storage_compute_nothing_twice(
    ray_cluster: None, tiny_recipe: Path, tmp_path: Path
) -> None:
    """Two drivers on one cluster want the same six students, and all that those need."""
    import ray

    space = {
        "base": str(tiny_recipe),
        "sampler": "grid",
        "scheduler": {"name": "none"},
        "space": {
            "distill.alpha": {"choice": [0.2, 0.5, 0.8]},
            "distill.temperature": {"choice": [1.0, 4.0]},
        },
        "budget": {"trials": 6},
    }
    (tmp_path / "space.yaml").write_text(json.dumps(space))
    environment = {
        **os.environ,
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_AUTH_MODE": "token",
    }
    storage = tmp_path / "storage"
    command = ["sweep", str(tmp_path / "space.yaml"), "--storage", str(storage), "--json"]
    drivers = [
        subprocess.Popen(
            [sys.executable, "-m", "serkd", *command, "--name", name],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "other")
    ]
    computed: list[str] = []
    for driver in drivers:
        out, err = driver.communicate()
        assert driver.returncode == 0, err
        summary = json.loads(out)
        assert [trial["state"] for trial in summary["trials"]] == ["finished"] * 6
        for record in Ledger(Path(summary["folder"]) / "ledger.jsonl").read():
            stages = record.get("stages", ())
            computed += [stage["key"] for stage in stages if not stage["is_cached"]]
    students = {path.parent.name for path in storage.glob("stages/student/*/stage.json")}
    assert len(students) == 6
    assert sorted(computed) == sorted(students)  # the others were there before the trials


def test_a_trial_that_fails_says_why_and_the_sweep_goes_on(
    ray_cluster: None, tiny_recipe: Path, tmp_path: Path
) -> None:
    swept = _sweep(tmp_path, tiny_recipe, FAILING)
    trials = swept.summary["trials"]
    drawn = [trial["params"]["units.num_clusters"] for trial in trials]
    assert drawn == [[1_000_000], [4], [8]]
    for trial in trials:
        if trial["trial"]:
            assert trial["state"] == "finished"
        else:
            assert trial["state"] == "failed"
            assert "units.num_clusters must be at most the number of training" in trial["reason"]
            assert "value" not in trial
    assert swept.summary["best"]["trial"] > 0
    lines = len(swept.ledger.read())
    swept.again()
    assert len(swept.ledger.read()) == lines  # what failed for good is not tried again


def test_a_trial_too_large_for_the_cluster_is_refused_before_any_work(
    ray_cluster: None, tiny_recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="it needs 5 CPU, the cluster has 2 CPU on 1"):
        _sweep(tmp_path, tiny_recipe, {**SHARING, "resources": {"cpu": 5}})
    assert not (tmp_path / "storage" / "stages").exists()


def test_the_best_trial_is_one_whose_student_exists(tiny: Experiment, tmp_path: Path) -> None:
    """A pruned trial has a value but was stopped before it published its student."""
    space = Space.model_validate_json(json.dumps({**SHARING, "base": "base.yaml"}))
    sweep = open_sweep("sweep", space, tiny, tmp_path)
    for trial, (state, value) in enumerate([("pruned", 0.8), ("finished", 0.7), ("failed", None)]):
        record = {"event": state, "trial": trial, "time": 0.0, "params": {}}
        sweep.ledger.append(record if value is None else {**record, "value": value})
    best = sweep.best()
    assert best is not None
    assert best["trial"] == 1


def test_a_fold_that_is_none_is_refused(tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one of 1, 2, 3"):
        _sweep(tmp_path, tiny_recipe, {**SHARING, "folds": ["9"]})


def test_stages_that_a_trial_computes_equal_those_of_a_plain_run(
    swept: _Swept, tiny_recipe: Path, tmp_path: Path
) -> None:
    """Bit for bit with as many threads as a trial has; others may round sums differently."""
    set_threads(Space.model_fields["resources"].default.cpu)
    trial = swept.summary["trials"][0]
    experiment = build_experiment(json.loads(tiny_recipe.read_text()), trial["params"])
    fold = read_folds(experiment.corpus, experiment.protocol)[0]
    graph, store = Graph(STAGES, experiment, fold), StageStore(tmp_path)
    graph.run([STUDENT], store, Compute(), Observer())
    key = graph.key(STUDENT)
    found, expected = (
        (root / "stages" / "student" / key / "model.safetensors").read_bytes()
        for root in (swept.storage, tmp_path)
    )
    assert found == expected


def test_a_trial_that_a_killed_driver_left_running_is_run_under_its_number(swept: _Swept) -> None:
    number = 1 + max(trial["trial"] for trial in swept.ledger.trials())
    params = {**swept.ledger.trials()[0]["params"], "distill.alpha": 0.55}
    for event in ("proposed", "started"):
        record = {"event": event, "trial": number, "time": 0.0, "params": params}
        swept.ledger.append(record)
    summary = swept.again(trials=number + 1)
    (trial,) = [trial for trial in summary["trials"] if trial["trial"] == number]
    assert (trial["state"], trial["params"]) == ("finished", params)
    assert len(summary["trials"]) == number + 1


def test_every_trial_is_run_on_all_folds_and_seeds_and_its_value_is_their_mean(
    ray_cluster: None, tiny_recipe: Path, tmp_path: Path
) -> None:
    space = {
        "budget": {"trials": 2},
        "sampler": "grid",
        "space": {"student.fit.lr": {"choice": [1e-3, 3e-3]}},
        "set": {"distill.alpha": 0.0, "curriculum.pacing": "none"},
        "folds": ["1", "2"],
        "seeds": [0, 1],
        "scheduler": {"name": "asha", "fidelity": "fold", "reduction_factor": 2},
        "objective": "dev_war",
    }
    swept = _sweep(tmp_path, tiny_recipe, space)
    data, store = json.loads(tiny_recipe.read_text()), StageStore(swept.storage)
    folds = {f.name: f for f in read_folds(*_corpus(data))}
    first = swept.summary["trials"][0]
    assert first["state"] == "finished"
    values = []
    for seed in (0, 1):
        for name in ("1", "2"):
            settings = {**space["set"], **first["params"], "seed": seed}  # type: ignore[dict-item]
            graph = Graph(STAGES, build_experiment(data, settings), folds[name])
            found = store.find("student", graph.key(STUDENT))
            assert found is not None
            history = json.loads((found.folder / "history.json").read_text())
            values.append(max(history, key=lambda record: record["dev_uar"])["dev_war"])
    assert first["value"] == pytest.approx(sum(values) / 4, abs=1e-12)
    rungs = [r for r in swept.ledger.read() if r["event"] == "rung" and r["trial"] == 0]
    expected = {1: values[0], 2: sum(values[:2]) / 2}
    assert {r["step"]: r["value"] for r in rungs} == pytest.approx(expected)
    tested = open_test(Path(swept.summary["folder"]), 0)
    assert set(tested["folds"]) == {"1", "2"}
    assert tested["chosen"] == "trial 0, seed 0 of 2"


def _corpus(data: Mapping[str, Any]) -> tuple[Any, Any]:
    experiment = build_experiment(data, {})
    return experiment.corpus, experiment.protocol
