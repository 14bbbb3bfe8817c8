"""Which trials go on after a rung: a pure function of the ledger's rung records.

Asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter
Tuning", MLSys 2020) judges a trial against whoever arrived at the rung before it. What arrives
first depends on the machine, so a sweep that is killed and started again would end with other
survivors. Here a trial is judged against the trials with *smaller numbers* that reached the rung:
arrival in the order of proposal, which is the order that asynchronous halving sees with one worker.
A trial whose smaller numbers have not all got so far yet is not stopped: it trains on, and is
judged as soon as they have, at the latest after its own end. Nobody waits, and the survivors are
the same whatever the number of workers, crashes and restarts.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field

from serkd.search.replay import ENDED, Replay, Trial


@dataclass(frozen=True)
class Rungs:
    """Where trials are compared, and how.

    `steps` are epochs or folds. A trial goes on if its value is at least the `quantile` of those
    of its peers (linear interpolation, as in Ray Tune's ASHA), once it has `min_peers` of them.
    """

    steps: tuple[int, ...]
    quantile: float
    min_peers: int = 1


@dataclass(frozen=True)
class Verdict:
    """A trial fell at a rung."""

    trial: int
    step: int
    value: float
    cutoff: float
    num_peers: int  # that it was compared with


def asha_rungs(grace: int, factor: int, last: int) -> Rungs:
    """Rungs at grace · factor^k below `last`; one trial in `factor` is promoted at each."""
    steps = []
    step = max(1, grace)
    while step < last:
        steps.append(step)
        step *= factor
    return Rungs(tuple(steps), 1 - 1 / factor)


def median_rungs(grace: int, last: int) -> Rungs:
    """The median stopping rule (Golovin et al., "Google Vizier", KDD 2017, §3.2.2), at each step.

    We compare best values so far with best values so far at the same step, not with running means.
    """
    return Rungs(tuple(range(max(1, grace), last)), 0.5, min_peers=3)


@dataclass
class _Rung:
    """Who was judged here: the numbers below `frontier`."""

    frontier: int = 0
    values: list[float] = field(default_factory=list)  # sorted
    passed: set[int] = field(default_factory=set)


class Halving:
    """Judges trials as records arrive; built anew from a replay after a crash."""

    def __init__(self, rungs: Rungs, replay: Replay) -> None:
        self.rungs, self.replay = rungs, replay
        self._rungs = {step: _Rung() for step in rungs.steps}

    def crossed(self, trial: Trial, step: int) -> list[int]:
        """The rungs that a report at `step` reaches for the first time."""
        return [rung for rung in self.rungs.steps if rung <= step and rung not in trial.rungs]

    def judge(self) -> Iterator[Verdict]:
        """All verdicts that the records allow by now and that were not given before.

        The caller writes each to the ledger (and the replay) before it asks for the next.
        """
        below: _Rung | None = None
        for step, rung in self._rungs.items():
            yield from self._advance(step, rung, below)
            below = rung

    def _advance(self, step: int, rung: _Rung, below: _Rung | None) -> Iterator[Verdict]:
        """Judge in the order of numbers, up to the first trial that may still arrive here."""
        while rung.frontier in self.replay.trials:
            if below is not None and rung.frontier >= below.frontier:
                return
            trial = self.replay.trials[rung.frontier]
            value = trial.rungs.get(step)
            has_fallen = below is not None and trial.number not in below.passed
            if value is None and not has_fallen and trial.state not in (*ENDED, "discarded"):
                return
            rung.frontier += 1
            if value is None or has_fallen or trial.state == "discarded":
                continue
            if (verdict := self._compare(trial, step, value, rung)) is not None:
                yield verdict

    def _compare(self, trial: Trial, step: int, value: float, rung: _Rung) -> Verdict | None:
        """Enter a trial at a rung; a verdict if it falls and nobody has said so yet."""
        cutoff = None
        if len(rung.values) >= self.rungs.min_peers:
            cutoff = _quantile(rung.values, self.rungs.quantile)
        num_peers = len(rung.values)
        bisect.insort(rung.values, value)
        if cutoff is None or value >= cutoff:
            rung.passed.add(trial.number)
            return None
        if trial.is_settled or trial.state in ("pruned", "failed"):
            return None
        return Verdict(trial.number, step, value, cutoff, num_peers)


def _quantile(ordered: list[float], share: float) -> float:
    """Of sorted values, interpolated linearly (numpy's default)."""
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
