"""What is stored: what may go, what must stay, and why a stage was missed."""

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serkd.cli import app
from serkd.config import Experiment
from serkd.corpora.protocols import read_folds
from serkd.errors import InputError
from serkd.events import Observer
from serkd.recipe import build_experiment
from serkd.report.stored import delete_unneeded, explain_misses, find_unneeded
from serkd.stages.catalogue import STAGES, STUDENT
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.inventory import list_stored
from serkd.stages.store import StageStore

VALUES = {0: 0.5, 1: 0.9, 2: 0.7}  # of trials, by number
MARGINS = {0: 0.1, 1: 0.2, 2: 0.3}


def _store_all(experiment: Experiment, storage: Path) -> dict[str, str]:
    """Publish empty artifacts for all stages of an experiment; their keys."""
    fold = read_folds(experiment.corpus, experiment.protocol)[0]
    graph, store = Graph(STAGES, experiment, fold), StageStore(storage)
    for ref in graph.closure([STUDENT]):
        key = graph.key(ref)
        if store.find(ref.stage, key) is None:
            built = store.work(ref.stage, key) / "artifact"
            built.mkdir(parents=True)
            (built / "data").write_text("x" * 1000)
            fitted = STAGES[ref.stage].fits != "none"
            info = {
                "fields": graph.fields(ref),
                "seconds": 1.0,
                "fold": fold.name if fitted else None,
                "train_hash": fold.train_hash if fitted else None,
            }
            store.publish(ref.stage, key, built, info)
    return {str(ref): graph.key(ref) for ref in graph.closure([STUDENT])}


@pytest.fixture
def storage(tmp_path: Path, tiny: Experiment) -> Iterator[Path]:
    """A finished sweep of three trials over a teacher's margin, and a stage of nobody."""
    folder = tmp_path / "sweeps" / "margins"
    folder.mkdir(parents=True)
    base = tiny.model_dump(mode="json")
    base["teacher"]["start"] = "backbone"
    space = {
        "base": "base.yaml",
        "budget": {"trials": 3},
        "space": {"teacher.stage2.margin": {"choice": [0.1, 0.2, 0.3]}},
        "seeds": None,
        "folds": ["1"],
    }
    (folder / "sweep.json").write_text(json.dumps({"base": base, "space": space}))
    records = []
    for number, margin in MARGINS.items():
        params = {"teacher.stage2.margin": margin}
        _store_all(build_experiment(base, params), tmp_path)
        records.append(_finished(number, params))
    (folder / "ledger.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    yield tmp_path


def _finished(number: int, params: dict[str, Any]) -> dict[str, Any]:
    """A record that both says what was proposed and how it ended."""
    return {
        "trial": number,
        "event": "finished",
        "state": "finished",
        "params": params,
        "value": VALUES[number],
        "time": float(number),
    }


def _trial_keys(storage: Path, number: int) -> set[str]:
    about = json.loads((storage / "sweeps" / "margins" / "sweep.json").read_text())
    experiment = build_experiment(about["base"], {"teacher.stage2.margin": MARGINS[number]})
    fold = read_folds(experiment.corpus, experiment.protocol)[0]
    graph = Graph(STAGES, experiment, fold)
    return {graph.key(ref) for ref in graph.closure([STUDENT])}


@pytest.mark.parametrize(("keep", "best"), [(1, [1]), (2, [1, 2]), (3, [0, 1, 2]), (9, [0, 1, 2])])
def test_what_the_best_trials_need_stays_and_no_more(
    storage: Path, keep: int, best: list[int]
) -> None:
    everything = {each.key for each in list_stored(storage)}
    found = find_unneeded(storage, keep)
    expected = set().union(*(_trial_keys(storage, number) for number in best))
    assert everything - {each.key for each in found.unneeded} == expected
    assert {each.key for each in list_stored(storage)} == everything  # nothing is deleted yet
    freed = delete_unneeded(storage, found)
    assert {each.key for each in list_stored(storage)} == expected
    assert freed == 1000 * len(everything - expected)
    assert not list((storage / "stages").glob("*/.gone-*"))


def test_what_a_run_needs_stays_with_all_that_made_it(storage: Path) -> None:
    """A run that read its student from the storage does not list what that was made of."""
    (student,) = [
        each.key
        for each in list_stored(storage)
        if each.stage == "student" and each.key in _trial_keys(storage, 0)
    ]
    run = storage / "runs" / "mine"
    run.mkdir(parents=True)
    rows = {"folds": {"1": {"stages": [{"stage": "student", "key": student}]}}}
    (run / "results.json").write_text(json.dumps(rows))
    kept = {each.key for each in list_stored(storage)}
    kept -= {each.key for each in find_unneeded(storage, 1).unneeded}
    assert kept == _trial_keys(storage, 0) | _trial_keys(storage, 1)


def test_a_sweep_that_has_not_ended_keeps_all(storage: Path) -> None:
    path = storage / "sweeps" / "margins" / "sweep.json"
    about = json.loads(path.read_text())
    about["space"]["budget"]["trials"] = 4
    path.write_text(json.dumps(about))
    assert find_unneeded(storage, 1).unneeded == []


def test_nothing_goes_while_work_is_running(storage: Path) -> None:
    lock = storage / "stages" / ".work" / "student-abc.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="work is running: student-abc"):
            find_unneeded(storage, 1)
    assert find_unneeded(storage, 1).unneeded  # the file stays, the lock does not


def test_a_stage_that_somebody_takes_meanwhile_stays(storage: Path) -> None:
    found = find_unneeded(storage, 1)
    taken, *others = found.unneeded
    lock = storage / "stages" / ".work" / f"{taken.stage}-{taken.key}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        delete_unneeded(storage, found)
    assert taken.folder.is_dir()
    assert not any(other.folder.exists() for other in others)


@pytest.mark.parametrize(
    ("name", "message"), [("runs", "must be a finished run"), ("sweeps", "cannot be told")]
)
def test_folders_that_say_nothing_stop_it(storage: Path, name: str, message: str) -> None:
    (storage / name / "strange").mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        find_unneeded(storage, 1)


def test_the_command_deletes_only_when_told(storage: Path) -> None:
    def call(*arguments: str) -> dict[str, Any]:
        command = ["stages", "gc", "--keep-best", "1", "--storage", str(storage), "--json"]
        result = CliRunner().invoke(app, [*command, *arguments])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    count = len(list_stored(storage))
    dry = call()
    assert (dry["deleted"], len(list_stored(storage))) == (False, count)
    done = call("--yes")
    assert done["unneeded"] == dry["unneeded"]
    assert len(list_stored(storage)) == done["kept"] < count
    listed = CliRunner().invoke(app, ["stages", "--storage", str(storage), "--json"])
    assert len(json.loads(listed.stdout)) == done["kept"]


def test_a_miss_names_the_fields_that_differ_and_no_others(storage: Path, tiny: Experiment) -> None:
    base = {**tiny.model_dump(mode="json")}
    changes = {
        "teacher.start": "backbone",
        "teacher.stage2.margin": 0.2,
        "student.fit.lr": 0.5,
        "student.num_heads": 8,  # of a conv student: no effect
    }
    found = explain_misses(build_experiment(base, changes), "1", storage, ["student"])
    ((name, miss),) = found
    assert name == "student of fold 1"
    assert miss.differences == {"config.student.fit.lr": (0.5, tiny.student.fit.lr)}
    other = explain_misses(build_experiment(base, changes), "2", storage, ["student"])
    assert set(dict(other)["teacher of fold 2"].differences) == {"train", "dev"}
    changes |= {"student.fit.lr": tiny.student.fit.lr, "teacher.stage2.margin": 0.25}
    chain = explain_misses(build_experiment(base, changes), "1", storage, ["student"])
    assert [name for name, _ in chain] == [
        f"{stage} of fold 1" for stage in ("teacher", "teacher_outputs", "student")
    ]
    assert [*chain[0][1].differences] == ["config.teacher.stage2.margin"]
    assert all(field.startswith("inputs.") for field in chain[2][1].differences)


def test_nothing_is_missed_where_all_is_stored(storage: Path, tiny: Experiment) -> None:
    wanted = {"teacher.start": "backbone", "teacher.stage2.margin": 0.2}
    experiment = build_experiment(tiny.model_dump(mode="json"), wanted)
    assert explain_misses(experiment, "1", storage, ["student"]) == []
    graph = Graph(STAGES, experiment, read_folds(tiny.corpus, tiny.protocol)[0])
    _, results = graph.run([STUDENT], StageStore(storage), Compute(), Observer())
    assert all(result.is_cached for result in results)
