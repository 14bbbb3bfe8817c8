"""What the engine of sweeps costs: trivial trials through all of it, against Ray Tune alone.

Both run the same number of trials with the same number of reports, in reused actors and as many at
a time. Tune is run as it comes, and without the snapshots of its state, which the engine has no
need of. The engine proposes trials with Optuna's TPE, keeps its study, the ledger and TensorBoard's
rows, and compares trials at ASHA's rungs, which all of them pass. They take turns, after a few
trials of each that do not count; a time is the shortest, and the ratio is to the faster Tune. Then
ledgers of many records are read back to where a sweep would go on from.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray import tune

from serkd import runtime
from serkd.bench.output import add_json, write_numbers
from serkd.errors import InputError
from serkd.events import Observer
from serkd.report.boards import Boards
from serkd.report.hparams import HParams
from serkd.report.sweep import Progress
from serkd.search.asha import asha_rungs
from serkd.search.capacity import count_slots
from serkd.search.ledger import Ledger
from serkd.search.reports import Reports
from serkd.search.runner import run_trials
from serkd.search.space import Resources, Space
from serkd.search.status import find_status
from serkd.search.study import Search
from serkd.section import validate

_EPOCHS = 3
_WARM_TRIALS = 4
_SNAPSHOTS = "TUNE_GLOBAL_CHECKPOINT_S"  # seconds from one to the next
_SPACE = {
    "base": "none.yaml",
    "space": {
        "distill.alpha": {"float": [0.1, 0.9]},
        "distill.temperature": {"choice": [1.0, 2.0, 4.0, 8.0]},
    },
}


def main(arguments: Sequence[str]) -> None:
    """Parse, measure, print Markdown; `--json FILE` writes everything."""
    parser = argparse.ArgumentParser(prog="python -m serkd.bench sweep", description=__doc__)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=2, help="turns of each")
    parser.add_argument("--records", type=int, default=10_000, help="of the ledger that is read")
    parser.add_argument("--cpus", type=int, help="of the cluster; default the machine's")
    add_json(parser)
    options = parser.parse_args(arguments)
    if min(options.trials, options.repeats, options.records, options.cpus or 1) < 1:
        raise InputError("--trials, --repeats, --records and --cpus must be 1 or more")
    runtime.start_ray(options.cpus)
    for run in _WAYS.values():
        _timed(run, min(_WARM_TRIALS, options.trials))
    found: dict[str, list[float]] = {name: [] for name in _WAYS}
    for _ in range(options.repeats):
        for name, run in _WAYS.items():
            found[name].append(_timed(run, options.trials))
    replay = _timed(_replay, options.records)
    print(_table(found, options.trials))
    print(f"\n{options.records:,} records of a ledger replayed in {replay:.2f} s")
    numbers = {"seconds": found, "ratio": _ratio(found), "replay_s": replay}
    write_numbers(options.json, numbers)


def _timed(run: Callable[[Path, int], float], count: int) -> float:
    with TemporaryDirectory(prefix="serkd-bench-") as folder:
        return run(Path(folder), count)


def _run_tune(folder: Path, trials: int) -> float:
    tuner = tune.Tuner(
        tune.with_resources(_train_alone, {"cpu": 1}),
        param_space={"alpha": tune.uniform(0.1, 0.9), "temperature": tune.choice([1, 2, 4, 8])},
        tune_config=tune.TuneConfig(
            num_samples=trials,
            reuse_actors=True,
            max_concurrent_trials=count_slots(Resources()),
        ),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    started = time.perf_counter()
    results = tuner.fit()
    seconds = time.perf_counter() - started
    assert len(results) == trials
    assert not results.errors
    return seconds


def _train_alone(config: Mapping[str, Any]) -> None:
    for epoch in range(1, _EPOCHS + 1):
        tune.report({"epoch": epoch, "dev_uar": config["alpha"]})


def _run_engine(folder: Path, trials: int) -> float:
    space = validate(Space, {**_SPACE, "budget": {"trials": trials}}, "bench")
    ledger, one = Ledger(folder / "ledger.jsonl"), Resources()
    started = time.perf_counter()
    with ledger.lock():
        rows = HParams(folder / "tensorboard" / "hparams", space.space, space.objective)
        search = Search(space, "bench", folder / "study.journal", ledger.replay())
        replay = run_trials(
            folder,
            search,
            _Train(trials),
            one,
            partial(count_slots, one),
            rungs=asha_rungs(1, 2, _EPOCHS),
            listeners=[Boards(folder, ledger.replay(), rows), Progress(trials, Observer())],
        )
    seconds = time.perf_counter() - started
    assert [trial.state for trial in replay.current()] == ["finished"] * trials
    return seconds


def _run_tune_quietly(folder: Path, trials: int) -> float:
    before = os.environ.get(_SNAPSHOTS)
    os.environ[_SNAPSHOTS] = "1000000"
    try:
        return _run_tune(folder, trials)
    finally:
        del os.environ[_SNAPSHOTS]
        if before is not None:
            os.environ[_SNAPSHOTS] = before


_WAYS = {
    "Ray Tune alone": _run_tune,
    "Ray Tune alone, no snapshots": _run_tune_quietly,
    "serkd": _run_engine,
}


class _Train:
    """Each trial is better than those before it, so that none is stopped."""

    def __init__(self, trials: int) -> None:
        self.trials = trials

    def __call__(self, number: int, params: Mapping[str, Any], reports: Reports) -> None:
        for epoch in range(1, _EPOCHS + 1):
            value = (number + epoch / _EPOCHS) / (self.trials + 1)
            reports.step(epoch, {"dev_uar": value}, is_held=epoch == _EPOCHS)


def _replay(folder: Path, num_records: int) -> float:
    ledger = Ledger(folder / "ledger.jsonl")
    with ledger.path.open("w", encoding="utf-8") as file:
        for number in range(num_records):
            file.write(json.dumps(_record(number)) + "\n")
    space = validate(Space, {**_SPACE, "budget": {"trials": num_records}}, "bench")
    started = time.perf_counter()
    replay = ledger.replay()
    seconds = time.perf_counter() - started
    assert len(replay.trials) == -(-num_records // 5)
    assert find_status(replay, space.budget.trials).total >= len(replay.trials)
    return seconds


def _record(number: int) -> dict[str, Any]:
    """Five for each trial: proposed, started, stages, rung, finished."""
    trial, kind = divmod(number, 5)
    stage = {"name": "student", "key": f"{trial:032x}", "is_cached": False, "seconds": 1.0}
    value = trial / (trial + 1)
    facts: tuple[dict[str, Any], ...] = (
        {"event": "proposed", "params": {"distill.alpha": value, "distill.temperature": 2.0}},
        {"event": "started"},
        {"event": "stages", "stages": [stage] * 9},
        {"event": "rung", "step": 1, "value": value},
        {"event": "finished", "value": value, "values": {"dev_uar": value}, "epochs": 9},
    )
    return {"trial": trial, "time": float(number), **facts[kind]}


def _ratio(found: Mapping[str, Sequence[float]]) -> float:
    alone = min(min(seconds) for name, seconds in found.items() if name != "serkd")
    return min(found["serkd"]) / alone


def _table(found: Mapping[str, Sequence[float]], trials: int) -> str:
    rows = [
        f"| {name} | {min(seconds):.1f} | {1e3 * min(seconds) / trials:.0f} |"
        for name, seconds in found.items()
    ]
    head = f"| {trials} trivial trials | s | ms a trial |"
    return "\n".join([head, "|---|---|---|", *rows, f"| ratio | {_ratio(found):.2f} | |"])
