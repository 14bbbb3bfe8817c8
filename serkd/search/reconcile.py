"""A sweep that is started again with another file: what of it is still true.

A trial stays if the experiment that it was is one that the new file would make: its values are read
at the keys that are searched now, lie within the new ranges, and give the same student. So more
trials, a wider range, a new choice, a new key whose range has the value that was fixed, and a key
that is no longer searched but fixed at the trial's value keep what is there. Other folds, seeds or
objectives run the same trials again, which only computes what is missing.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serkd.config import Experiment
from serkd.corpora.folds import Fold, hash_folds
from serkd.errors import InputError
from serkd.files import write_json
from serkd.recipe import build_experiment
from serkd.search.dimension import Dimension, is_same
from serkd.search.identity import experiment_key
from serkd.search.replay import ENDED, Replay
from serkd.search.space import Space
from serkd.search.suggest import is_asked
from serkd.search.trial import build_trial
from serkd.search.tuner import Sweep
from serkd.section import validate


@dataclass
class Change:
    """What a new file does to the trials of a sweep, by number."""

    moved: dict[int, dict[str, Any]] = field(default_factory=dict)  # kept under other parameters
    again: list[int] = field(default_factory=list)  # on other folds, seeds or objectives
    dropped: dict[int, str] = field(default_factory=dict)  # why
    settles: bool = False  # those that ended are not judged again

    def __bool__(self) -> bool:
        return bool(self.moved or self.again or self.dropped or self.settles)


def describe_sweep(sweep: Sweep, folds: Sequence[Fold]) -> dict[str, Any]:
    """What sweep.json keeps: enough to see later what has changed."""
    return {
        "base": sweep.base.model_dump(mode="json"),
        "space": sweep.space.model_dump(mode="json"),
        "folds_hash": hash_folds(folds),
    }


def reconcile(sweep: Sweep, folds: Sequence[Fold], agrees: Callable[[str], bool]) -> None:
    """Bring the ledger in line with the file, and keep the file's content as sweep.json.

    `agrees` is asked before results are set aside; it is given a text that says which and why. The
    caller holds the ledger's lock.

    Raises:
        InputError: it does not agree, or the folder is of another program.
    """
    path, asked = sweep.folder / "sweep.json", describe_sweep(sweep, folds)
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        replay = sweep.ledger.replay()
        change = find_change(before, sweep, asked["folds_hash"], replay)
        lost = {n: why for n, why in change.dropped.items() if replay.trials[n].state in ENDED}
        if lost and not agrees(_describe_loss(sweep, lost, replay)):
            raise InputError(
                f"{sweep.folder}: must not be changed without your consent, nothing was changed"
            )
        _write_change(sweep, change, replay)
    write_json(path, asked)


def find_change(before: Mapping[str, Any], sweep: Sweep, folds_hash: str, replay: Replay) -> Change:
    """What the file of now does to the trials of the file before."""
    old_space = validate(Space, before["space"], "sweep.json")
    old_base = build_experiment(before["base"], {}, origin="sweep.json")
    change = Change()
    if before["folds_hash"] != folds_hash:
        why = "the corpus or its folds have changed"
        change.dropped = {trial.number: why for trial in replay.current()}
        return change
    if old_base != sweep.base or old_space.space != sweep.space.space:
        _compare_trials(old_base, sweep, replay, change)
    parts = ("objective", "folds", "seeds")
    has_other_cells = any(getattr(old_space, p) != getattr(sweep.space, p) for p in parts)
    if has_other_cells:
        left = [trial for trial in replay.current() if trial.number not in change.dropped]
        change.again = [trial.number for trial in left if trial.state in ("finished", "pruned")]
    change.settles = bool(change.dropped) or old_space.scheduler != sweep.space.scheduler
    return change


def _compare_trials(old_base: Experiment, sweep: Sweep, replay: Replay, change: Change) -> None:
    for trial in replay.current():
        was = build_trial(old_base, trial.params)
        params, problem = read_params(was, sweep.space.space)
        if problem is None and experiment_key(build_trial(sweep.base, params)) != experiment_key(
            was
        ):
            problem = "the base has changed where the trial reads it"
        if problem is not None:
            change.dropped[trial.number] = problem
        elif params != trial.params:
            change.moved[trial.number] = params


def read_params(
    experiment: Experiment, dimensions: Mapping[str, Dimension]
) -> tuple[dict[str, Any], str | None]:
    """An experiment's values at the searched keys that are active, and which is out of range."""
    data = experiment.model_dump(mode="json")
    params: dict[str, Any] = {}
    for dotted, dimension in dimensions.items():
        if not is_asked(dimension, dimensions, params):
            continue
        value: Any = data
        for name in dotted.split("."):
            value = value[name]
        if not _is_within(value, dimension):
            return params, f"{dotted} = {value!r} is outside the new range"
        params[dotted] = value
    return params, None


def _is_within(value: object, dimension: Dimension) -> bool:
    if dimension.choice is not None:
        return any(is_same(value, each) for each in dimension.choice)
    ends = dimension.int or dimension.float
    if ends is None or not isinstance(value, int | float) or isinstance(value, bool):
        return False
    if not ends[0] <= value <= ends[1]:
        return False
    every = dimension.values()
    # a grid has the values that Optuna counts: others would be refused as a parameter
    return every is None or any(abs(value - each) < 1e-9 for each in every)


def _write_change(sweep: Sweep, change: Change, replay: Replay) -> None:
    records: list[dict[str, Any]] = []
    for number, why in change.dropped.items():
        records.append({"event": "discarded", "trial": number, "reason": why})
    for number, params in change.moved.items():
        records.append({"event": "kept", "trial": number, "params": params})
    records += [{"event": "again", "trial": number} for number in change.again]
    if change.settles:
        left = [t for t in replay.ended() if t.number not in {*change.dropped, *change.again}]
        records += [{"event": "settled", "trial": trial.number} for trial in left]
    for record in records:
        sweep.ledger.append({**record, "time": time.time()})


def _describe_loss(sweep: Sweep, lost: Mapping[int, str], replay: Replay) -> str:
    reasons: dict[str, list[int]] = {}
    for number, why in lost.items():
        reasons.setdefault(why, []).append(number)
    lines = [
        f"  {len(numbers)} trial(s) ({_shorten(numbers)}): {why}"
        for why, numbers in sorted(reasons.items(), key=lambda each: -len(each[1]))
    ]
    total = len(replay.ended())
    head = f"{sweep.folder}: this file sets aside {len(lost)} of {total} trials that ended:"
    return "\n".join([head, *lines, "their stages stay in the storage"])


def _shorten(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, sorted(numbers)[:8]))
    return shown if len(numbers) <= 8 else f"{shown}, …"


def retry_failed(sweep: Sweep) -> int:
    """Run failed trials again, under their numbers; returns how many."""
    failed = [t for t in sweep.ledger.replay().current() if t.state == "failed"]
    for trial in failed:
        sweep.ledger.append({"event": "again", "trial": trial.number, "time": time.time()})
    return len(failed)
