"""What a ledger's records add up to: every trial as it stands, and the sweep's counts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

ENDED = ("finished", "pruned", "failed")
PENDING = ("proposed", "running", "waiting", "preempted")  # to be run (again), under their number

_STATES = {
    "proposed": "proposed",
    "started": "running",
    "waits": "waiting",
    "preempted": "preempted",
    "finished": "finished",
    "pruned": "pruned",
    "failed": "failed",
    "discarded": "discarded",
    "again": "preempted",
}
_BETWEEN = ("kept", "discarded", "again", "settled")  # said before a driver starts
_COPIED = ("value", "values", "reason", "keys", "step", "cutoff", "num_peers", "waits_for")


@dataclass
class Trial:
    """One trial: what was proposed, and what became of it."""

    number: int
    params: dict[str, Any] = field(default_factory=dict)
    state: str = "proposed"
    facts: dict[str, Any] = field(default_factory=dict)  # what the last records say
    rungs: dict[int, float] = field(default_factory=dict)  # step: value, in order of arrival
    deaths: int = 0  # how often its process has died under it
    epochs: int = 0  # steps that it was heard of
    seconds: float = 0.0  # of all its runs
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    stage_requests: int = 0
    stages_computed: int = 0
    computed: set[str] = field(default_factory=set)  # keys, of all its runs
    attrs: dict[str, Any] = field(default_factory=dict)  # what the sampler needs to know again
    label: dict[str, Any] = field(default_factory=dict)  # of an explicit trial: arm, fold, seed
    started: float | None = None
    is_settled: bool = False  # not judged again: what it was compared with has changed

    @property
    def value(self) -> float | None:
        """The first objective, if the trial was finished or pruned."""
        found = self.facts.get("value")
        return None if found is None else float(found)

    def row(self) -> dict[str, Any]:
        """For tables and JSON."""
        found = {
            "trial": self.number,
            "state": self.state,
            "params": self.params,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "cpu_s": self.cpu_s,
            "gpu_s": self.gpu_s,
            "stage_requests": self.stage_requests,
            "stages_computed": self.stages_computed,
            **({"label": self.label} if self.label else {}),
        }
        return found | {name: self.facts[name] for name in _COPIED if name in self.facts}


class Replay:
    """Trials by number, built record by record: after a crash, and while the sweep runs."""

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self.trials: dict[int, Trial] = {}
        self.starts: list[dict[str, Any]] = []  # of the driver
        self.study_attrs: dict[str, Any] = {}  # of the sampler
        self.stopped: str | None = None  # why the last driver left trials undone
        self.driven_s = 0.0  # how long drivers have run, all together
        self.last_time: float | None = None
        for record in records:
            self.apply(record)

    def apply(self, record: Mapping[str, Any]) -> None:
        """Take one record into account; those of other versions are passed over."""
        event = record.get("event")
        if event is None:
            return
        if event == "opened":
            self.starts.append(dict(record))
            self.stopped = None
        elif event == "closed":
            self.stopped = record.get("reason")
        elif event not in _BETWEEN and "time" in record and self.last_time is not None:
            self.driven_s += max(0.0, record["time"] - self.last_time)
        self.last_time = record.get("time", self.last_time)
        if "trial" not in record:
            return
        trial = self.trials.setdefault(record["trial"], Trial(record["trial"]))
        if "params" in record:
            trial.params = record["params"]
        if event in _STATES:
            self._change(trial, str(event), record)
        elif event == "settled":
            trial.is_settled = True
        elif event == "rung":
            trial.rungs.setdefault(record["step"], record["value"])
        elif event == "stages":
            _count_stages(trial, record["stages"])

    def _change(self, trial: Trial, event: str, record: Mapping[str, Any]) -> None:
        trial.state = _STATES[event]
        if event == "proposed":
            trial.attrs, trial.label = record.get("attrs", {}), record.get("label", {})
            self.study_attrs.update(record.get("study_attrs", {}))
        elif event == "started":
            trial.started = record["time"]
            trial.stage_requests = trial.stages_computed = 0
            trial.facts.pop("waits_for", None)
        elif event == "again":
            trial.facts, trial.rungs, trial.deaths, trial.is_settled = {}, {}, 0, False
        trial.deaths += bool(record.get("is_death"))
        trial.epochs = max(trial.epochs, record.get("epochs", 0))
        for name in ("seconds", "cpu_s", "gpu_s"):
            setattr(trial, name, getattr(trial, name) + record.get(name, 0.0))
        trial.facts |= {name: record[name] for name in _COPIED if name in record}

    @property
    def next_number(self) -> int:
        """Numbers are never given twice, not even those of discarded trials."""
        return 1 + max(self.trials, default=-1)

    def current(self) -> list[Trial]:
        """All trials but the discarded ones, by number."""
        return [self.trials[n] for n in sorted(self.trials) if not self.is_discarded(n)]

    def is_discarded(self, number: int) -> bool:
        """Whether a change of the space or the base set the trial aside."""
        return self.trials[number].state == "discarded"

    def pending(self) -> list[Trial]:
        """Trials that were proposed and have not ended, by number."""
        return [trial for trial in self.current() if trial.state in PENDING]

    def ended(self) -> list[Trial]:
        """Trials that need not run again, by number."""
        return [trial for trial in self.current() if trial.state in ENDED]


def _count_stages(trial: Trial, stages: Iterable[Mapping[str, Any]]) -> None:
    """Requests and computations of one run; a stage that an earlier run computed counts too."""
    for stage in stages:
        if not stage["is_cached"]:
            trial.computed.add(stage["key"])
        trial.stage_requests += 1
        trial.stages_computed += stage["key"] in trial.computed
