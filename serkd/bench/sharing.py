"""What sharing stages saves: a grid of students of one teacher, with and without.

Trials vary the teacher's share of the loss, its temperature and the curriculum, on a part of the
built-in corpus. Once they share a storage; once each has its own, and so its own features, units
and teachers. Both go through the same engine on the same cluster. What the shared sweep should
take is reckoned from the times of its stages: those before the trials, then each trial on the first
slot that is free.
"""

import argparse
import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serkd import runtime
from serkd.bench.output import add_json, write_numbers
from serkd.config import Experiment
from serkd.corpora.build import build_manifest
from serkd.corpora.folds import Fold
from serkd.corpora.manifest import write_manifest
from serkd.corpora.protocols import read_folds
from serkd.corpora.synthetic import write_corpus
from serkd.errors import InputError
from serkd.events import Observer
from serkd.recipe import read_experiment
from serkd.report.boards import watch_trial
from serkd.report.quickstart import find_file
from serkd.search.capacity import count_slots
from serkd.search.grid import list_cells
from serkd.search.ledger import Ledger
from serkd.search.proposals import Listed, Proposal
from serkd.search.replay import Replay
from serkd.search.reports import Reports
from serkd.search.runner import run_trials
from serkd.search.space import Resources, Space
from serkd.search.trial import TrainExperiment, build_trial, plan_trials
from serkd.search.tuner import open_sweep, run_sweep
from serkd.section import validate
from serkd.stages.catalogue import STAGES, STUDENT
from serkd.stages.graph import Graph

_SPEAKERS, _TAKES = 12, 2  # 96 utterances: a fifth of the built-in corpus
# teachers cost more than their students: here about ten times as much
_TEACHER = {"teacher.stage1.fit.epochs": 40, "teacher.stage2.fit.epochs": 80}
_GRID: dict[str, list[Any]] = {
    "distill.alpha": [0.2, 0.4, 0.6, 0.8],
    "distill.temperature": [1.0, 2.0, 4.0, 8.0],
    "curriculum.pacing": ["none", "root"],
}


def main(arguments: Sequence[str]) -> None:
    """Parse, measure, print Markdown; `--json FILE` writes everything."""
    parser = argparse.ArgumentParser(prog="python -m serkd.bench sharing", description=__doc__)
    parser.add_argument("--trials", type=int, default=32, help="the first of the grid's 32")
    parser.add_argument("--student-epochs", type=int, default=8)
    parser.add_argument("--cpus", type=int, help="of the cluster; default the machine's")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the recipe")
    add_json(parser)
    options = parser.parse_args(arguments)
    if not 1 <= options.trials <= 32 or options.student_epochs < 1:
        raise InputError("--trials must be from 1 to 32, --student-epochs 1 or more")
    runtime.start_ray(options.cpus)
    with TemporaryDirectory(prefix="serkd-bench-") as folder:
        found = _measure(Path(folder), options.trials, options.student_epochs, options.set)
    print(_table(found))
    write_numbers(options.json, found)
    assert found["stages_computed"] == found["distinct_keys"], "a stage was computed twice"


def _measure(folder: Path, trials: int, epochs: int, settings: Sequence[str]) -> dict[str, Any]:
    manifest = folder / "corpus" / "manifest.parquet"
    sources = write_corpus(manifest.parent, num_speakers=_SPEAKERS, utterances_per_emotion=_TAKES)
    write_manifest(build_manifest(sources), manifest)
    own = {"corpus.manifest": manifest, "student.fit.epochs": epochs, **_TEACHER}
    recipe = find_file("jobs/recipes/quickstart.yaml")
    base = read_experiment(recipe, [*(f"{key}={value}" for key, value in own.items()), *settings])
    folds = read_folds(base.corpus, base.protocol)[:1]
    space = validate(
        Space,
        {
            "base": str(recipe),
            "space": {key: {"choice": values} for key, values in _GRID.items()},
            "sampler": "grid",
            "scheduler": {"name": "none"},
            "budget": {"trials": trials},
        },
        "bench",
    )
    params = [*list_cells(space.space)][:trials]
    _run_alone(folder / "warm", base, folds, space, params[:1])  # actors' imports, the disk's cache
    heard = _Heard()
    started = time.perf_counter()
    sweep = open_sweep("shared", space, base, folder / "shared")
    with sweep.ledger.lock():
        replay = run_sweep(sweep, folds, folder / "shared", heard, watch_trial)
    seconds = time.perf_counter() - started
    _require_finished(replay, trials)
    started = time.perf_counter()
    _run_alone(folder / "alone", base, folds, space, params)
    alone = time.perf_counter() - started
    computed = [p.parent.name for p in (folder / "shared").glob("stages/*/*/stage.json")]
    told = sum(trial.stages_computed for trial in replay.current()) + heard.computed
    assert told == len(computed), "the ledger knows of all that was computed"
    before, each = heard.seconds, _trial_seconds(sweep.ledger)
    slots = count_slots(space.resources)
    return {
        "trials": trials,
        "slots": slots,
        "stage_requests": sum(trial.stage_requests for trial in replay.current()),
        "stages_computed": told,
        "distinct_keys": len(_list_keys(base, folds[0], params)),
        "shared_s": seconds,
        "alone_s": alone,
        "predicted_s": before + _predict(each, slots),
        "before_trials_s": before,
        "before_trials": heard.by_stage,
        "trial_stages_s": sum(each),
    }


class _Heard(Observer):
    """What is computed before the trials."""

    def __init__(self) -> None:
        self.computed, self.seconds = 0, 0.0
        self.by_stage: dict[str, float] = {}

    def stage(self, name: str, key: str, *, is_cached: bool, seconds: float) -> None:
        if not is_cached:
            self.computed += 1
            self.seconds += seconds
            self.by_stage[name] = round(seconds, 3)


@dataclass(frozen=True)
class _Alone:
    """Trains as a sweep does, but into a storage of the trial's own."""

    train: TrainExperiment

    def __call__(self, number: int, params: Mapping[str, Any], reports: Reports) -> None:
        own = replace(self.train, storage=f"{self.train.storage}/{number}")
        own(number, params, reports)


def _run_alone(
    folder: Path,
    base: Experiment,
    folds: Sequence[Fold],
    space: Space,
    params: Sequence[Mapping[str, Any]],
) -> None:
    train = TrainExperiment(
        base=base,
        plan=plan_trials(space, base, folds),
        objective=space.objective,
        storage=str(folder),
        num_threads=space.resources.cpu,
        sweep="sweeps/alone",
        watch=watch_trial,
    )
    one = Resources()
    with Ledger(folder / "ledger.jsonl").lock():
        proposals = Listed([Proposal(each) for each in params])
        slots = partial(count_slots, one)
        _require_finished(run_trials(folder, proposals, _Alone(train), one, slots), len(params))


def _require_finished(replay: Replay, trials: int) -> None:
    states = [trial.state for trial in replay.current()]
    assert states == ["finished"] * trials, [t.facts for t in replay.current()]


def _list_keys(base: Experiment, fold: Fold, params: Sequence[Mapping[str, Any]]) -> set[str]:
    graphs = [Graph(STAGES, build_trial(base, each), fold) for each in params]
    return {graph.key(ref) for graph in graphs for ref in graph.closure([STUDENT])}


def _trial_seconds(ledger: Ledger) -> list[float]:
    """Of each trial, by number: what the stages took that it computed."""
    found: dict[int, float] = {}
    for record in ledger.read():
        if record["event"] == "stages":
            spent = sum(s["seconds"] for s in record["stages"] if not s["is_cached"])
            found[record["trial"]] = found.get(record["trial"], 0.0) + spent
    return [found[number] for number in sorted(found)]


def _predict(seconds: Sequence[float], slots: int) -> float:
    """When the last trial ends, if each starts on the first slot that is free."""
    free = [0.0] * slots
    for each in seconds:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def _table(found: Mapping[str, Any]) -> str:
    shared, alone, predicted = (found[f"{k}_s"] for k in ("shared", "alone", "predicted"))
    rows = (
        ("shared stages", f"{shared:.1f} s"),
        ("each trial with its own", f"{alone:.1f} s"),
        ("times faster", f"{alone / shared:.1f}"),
        ("what stage times predict", f"{predicted:.1f} s ({shared / predicted - 1:+.0%})"),
        ("stage requests of trials", f"{found['stage_requests']}"),
        ("stages computed / distinct keys", f"{found['stages_computed']}/{found['distinct_keys']}"),
    )
    head = f"| {found['trials']} trials, {found['slots']} at a time | |"
    return "\n".join([head, "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
