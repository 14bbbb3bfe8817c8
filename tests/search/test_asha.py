"""Halving: the verdicts of Ray Tune's own ASHA, whatever the order in which reports arrive."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from serkd.search.asha import Halving, asha_rungs, median_rungs
from serkd.search.replay import Replay

LAST = 27


def _curve(number: int) -> list[float]:
    """Values of 27 epochs; best so far."""
    rng = np.random.default_rng(number)
    return np.maximum.accumulate(rng.random() + 0.2 * rng.random(LAST)).tolist()


class _Trial:
    def __init__(self, number: int) -> None:
        self.trial_id = str(number)


def _tune_verdicts(count: int) -> dict[int, int]:
    """Epoch at which Tune's ASHA stops each trial, one trial after the other."""
    scheduler = AsyncHyperBandScheduler(
        time_attr="epoch",
        metric="v",
        mode="max",
        max_t=LAST + 1,
        grace_period=2,
        reduction_factor=3,
    )
    found = {}
    for number in range(count):
        trial = _Trial(number)
        scheduler.on_trial_add(None, trial)
        for epoch, value in enumerate(_curve(number), start=1):
            result = {"epoch": epoch, "v": value, "training_iteration": epoch}
            if scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
                found[number] = epoch
                break
    return found


class _Run:
    """Trials with curves on some workers, in a random order of reports."""

    def __init__(self, count: int, workers: int, seed: int, kills: set[int]) -> None:
        self.count, self.workers, self.rng, self.kills = count, workers, random.Random(seed), kills
        self.rungs = asha_rungs(2, 3, LAST)
        self.records: list[dict[str, object]] = []
        self.num_epochs = 0
        self._read()

    def _read(self) -> None:
        """What a driver knows when it starts."""
        self.replay = Replay(self.records)
        self.halving = Halving(self.rungs, self.replay)
        self.running: dict[int, Iterator[tuple[int, float]]] = {}
        self.waiting = [trial.number for trial in self.replay.pending()]

    def _record(self, event: str, number: int, **facts: object) -> None:
        record = {"event": event, "trial": number, "time": 0.0, **facts}
        self.records.append(record)
        self.replay.apply(record)

    def run(self) -> Replay:
        for tick in range(100_000):
            if tick in self.kills:
                self._read()
            self._start()
            if not self.running:
                return self.replay
            self._step(self.rng.choice(sorted(self.running)))
        raise AssertionError("the run does not end")

    def _start(self) -> None:
        while len(self.running) < self.workers:
            number = self.waiting.pop(0) if self.waiting else self.replay.next_number
            if number >= self.count:
                return
            if number not in self.replay.trials:
                self._record("proposed", number, params={})
            self._record("started", number)
            self.running[number] = iter(enumerate(_curve(number), start=1))

    def _step(self, number: int) -> None:
        trial = self.replay.trials[number]
        epoch, value = next(self.running[number], (None, None))
        if epoch is None:
            self._record("finished", number, value=_curve(number)[-1])
        else:
            self.num_epochs += 1
            for rung in self.halving.crossed(trial, epoch):
                self._record("rung", number, step=rung, value=value)
        for verdict in self.halving.judge():
            self._record("pruned", verdict.trial, step=verdict.step)
        for other in [n for n in self.running if self.replay.trials[n].state != "running"]:
            del self.running[other]


def _survivors(replay: Replay) -> list[int]:
    return [trial.number for trial in replay.current() if trial.state == "finished"]


def test_one_after_the_other_it_is_tunes_asha() -> None:
    replay = _Run(60, 1, 0, set()).run()
    found = {t.number: t.facts["step"] for t in replay.current() if t.state == "pruned"}
    assert found == _tune_verdicts(60)
    assert 0 < len(found) < 60


@pytest.mark.parametrize("workers", [2, 7])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_survivors_are_the_same_whatever_the_workers_order_and_crashes(
    workers: int, seed: int
) -> None:
    kills = set(random.Random(seed).sample(range(20, 700), 5))
    expected = _survivors(_Run(60, 1, 0, set()).run())
    assert _survivors(_Run(60, workers, seed, kills).run()) == expected


def test_waiting_for_smaller_numbers_costs_little() -> None:
    """Trials that train on until they can be judged: epochs beside those of one worker."""
    alone, eight = _Run(60, 1, 0, set()), _Run(60, 8, 0, set())
    alone.run()
    eight.run()
    assert eight.num_epochs < 1.5 * alone.num_epochs


def test_a_trial_that_fails_holds_up_nobody() -> None:
    replay = Replay()
    halving = Halving(asha_rungs(1, 2, 4), replay)
    for number in range(3):
        replay.apply({"event": "proposed", "trial": number, "time": 0.0, "params": {}})
    replay.apply({"event": "rung", "trial": 0, "step": 1, "value": 0.5})
    replay.apply({"event": "rung", "trial": 2, "step": 1, "value": 0.4})
    assert list(halving.judge()) == []  # trial 1 may still get there
    replay.apply({"event": "failed", "trial": 1, "time": 0.0})
    (verdict,) = halving.judge()
    assert (verdict.trial, verdict.step, verdict.cutoff, verdict.num_peers) == (2, 1, 0.5, 1)


def test_the_median_rule_waits_for_three_peers() -> None:
    replay = Replay()
    halving = Halving(median_rungs(2, 4), replay)
    values = [0.9, 0.8, 0.1, 0.2, 0.85]
    for number, value in enumerate(values):
        replay.apply({"event": "proposed", "trial": number, "time": 0.0, "params": {}})
        replay.apply({"event": "rung", "trial": number, "step": 2, "value": value})
    found = list(halving.judge())
    # trial 3 is below the median of 0.9, 0.8, 0.1; trial 4 is above that of all four
    assert [(verdict.trial, verdict.cutoff) for verdict in found] == [(3, 0.8)]
