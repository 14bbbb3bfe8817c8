"""How a sweep stands: counts, best, speed, time left, and why a trial ended as it did."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkd.search.asha import Rungs
from serkd.search.replay import Replay, Trial
from serkd.search.reports import log_path

_LAST_LINES = 12
STATES = ("finished", "pruned", "failed", "running", "waiting", "preempted", "proposed")


@dataclass(frozen=True)
class Status:
    """Of a sweep, from its ledger alone."""

    counts: dict[str, int]  # trials by state, all states
    total: int  # trials asked for
    best: Trial | None  # of the finished ones; a pruned one published no student
    trials_per_hour: float | None  # while drivers ran
    left_s: float | None
    stage_requests: int
    stages_computed: int
    cpu_s: float
    gpu_s: float

    @property
    def num_done(self) -> int:
        """Trials that need not run again."""
        return self.counts["finished"] + self.counts["pruned"] + self.counts["failed"]

    @property
    def reuse(self) -> float | None:
        """Share of stage requests that were answered from the storage."""
        if not self.stage_requests:
            return None
        return 1 - self.stages_computed / self.stage_requests

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **self.counts,
            "total": self.total,
            "best": None if self.best is None else self.best.row(),
            "trials_per_hour": self.trials_per_hour,
            "left_s": self.left_s,
            "stage_requests": self.stage_requests,
            "stages_computed": self.stages_computed,
            "cpu_s": self.cpu_s,
            "gpu_s": self.gpu_s,
        }


def find_status(replay: Replay, total: int) -> Status:
    """Trials per hour are those that ended by the time that drivers ran."""
    trials = replay.current()
    found = Counter(trial.state for trial in trials)
    counts = {state: found[state] for state in STATES}
    done = counts["finished"] + counts["pruned"] + counts["failed"]
    speed = 3600 * done / replay.driven_s if done and replay.driven_s else None
    return Status(
        counts=counts,
        total=max(total, len(trials)),
        best=find_best(replay),
        trials_per_hour=speed,
        left_s=None if speed is None else 3600 * max(0, total - done) / speed,
        stage_requests=sum(trial.stage_requests for trial in trials),
        stages_computed=sum(trial.stages_computed for trial in trials),
        cpu_s=sum(trial.cpu_s for trial in trials),
        gpu_s=sum(trial.gpu_s for trial in trials),
    )


def find_best(replay: Replay) -> Trial | None:
    """The finished trial with the highest first objective."""
    finished = [t for t in replay.current() if t.state == "finished" and t.value is not None]
    return max(finished, key=lambda trial: trial.value or 0.0, default=None)


def explain(replay: Replay, number: int, rungs: Rungs | None, logs: Path) -> list[str]:
    """Why a trial ended as it did, or what it waits for; a line for each fact."""
    trial = replay.trials[number]
    lines = [f"trial {number}: {trial.state}"]
    settings = {**trial.label, **trial.params}
    lines += [f"  {name} = {value!r}" for name, value in settings.items()]
    facts = trial.facts
    if trial.state == "pruned":
        lines += _explain_rung(replay, trial, rungs)
    elif trial.state == "failed":
        lines += ["", str(facts.get("reason")), "", "the end of its log:"]
        lines += read_tail(log_path(logs, number)) or ["(there is none)"]
    elif trial.state == "finished":
        named = (facts.get("values") or {"value": trial.value}).items()
        lines.append("ran to its end: " + ", ".join(f"{name} {value:.4f}" for name, value in named))
    elif trial.state == "waiting":
        lines.append(f"gave its slot back: another process computes {facts['waits_for'][:40]}")
    elif facts.get("reason"):
        lines.append(f"stopped before its end: {facts['reason']}; it will be run again")
    if trial.deaths:
        lines.append(f"its process has died {trial.deaths} time(s)")
    lines.append(
        f"{trial.stage_requests} stage requests, {trial.stages_computed} computed by it; "
        f"{trial.seconds:.1f} s"
    )
    return lines


def _explain_rung(replay: Replay, trial: Trial, rungs: Rungs | None) -> list[str]:
    step, facts = trial.facts["step"], trial.facts
    head = (
        f"stopped at step {step}: its value {facts['value']:.4f} is below {facts['cutoff']:.4f}, "
        f"the {'' if rungs is None else f'{100 * rungs.quantile:.0f} % '}quantile of the "
        f"{facts['num_peers']} trial(s) with smaller numbers that got there"
    )
    below = [rung for rung in (() if rungs is None else rungs.steps) if rung < step]
    peers = [
        other
        for other in replay.current()
        if other.number < trial.number
        and step in other.rungs
        and not (other.state == "pruned" and other.facts["step"] in below)
    ]
    ranked = sorted(peers, key=lambda other: -other.rungs[step])
    shown = [f"  trial {other.number}: {other.rungs[step]:.4f}" for other in ranked[:10]]
    if len(ranked) > len(shown):
        shown.append(f"  and {len(ranked) - len(shown)} more")
    return [head, *shown]


def read_tail(path: Path, lines: int = _LAST_LINES) -> list[str]:
    """The last lines of a text file; none if there is no file."""
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
