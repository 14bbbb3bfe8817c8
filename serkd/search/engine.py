"""What a sweep does next: Tune asks and tells it, the ledger keeps what it says.

All that matters is in the ledger before anything follows from it, so a driver that dies is replaced
by one that reads the same records: trials that were running are run again under their number, with
their parameters, and go on from the stages and checkpoints that they left.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serkd.search.asha import Halving, Rungs
from serkd.search.ledger import Ledger, LedgerError
from serkd.search.limits import Limits
from serkd.search.proposals import Proposals
from serkd.search.replay import ENDED, Replay, Trial
from serkd.search.space import Resources
from serkd.search.waiting import Waiting

logger = logging.getLogger(__name__)

_MAX_DEATHS = 3  # of a trial's process: preempted, or killed for its memory
_COMMON_BUG = 3  # failures before anything went well

Listener = Callable[[Mapping[str, Any], Replay], None]


class Engine:
    """The driver's side of a running sweep; trials are named by Tune's ids and by our numbers."""

    def __init__(
        self,
        ledger: Ledger,
        proposals: Proposals,
        resources: Resources,
        slots: Callable[[], int],
        rungs: Rungs | None,
        limits: Limits,
        is_there: Callable[[str], bool],
        listeners: Sequence[Listener],
    ) -> None:
        self.ledger, self.proposals, self.resources = ledger, proposals, resources
        self.slots, self.limits, self.listeners = slots, limits, listeners
        self.replay = ledger.replay()
        self.halving = None if rungs is None else Halving(rungs, self.replay)
        self.queue = Waiting(limits.list_pending(self.replay), is_there)
        self.handed: dict[str, int] = {}  # by Tune's id: what is starting or running
        self.num_failed = 0  # since this start
        self.is_exhausted = False
        self.draining: str | None = None  # why nothing new is begun
        self.halted: str | None = None  # why all is stopped at once
        self.broken: LedgerError | None = None
        for trial in self.replay.pending():
            if trial.state == "running":
                self.record("preempted", trial.number, reason="the driver ended")
        self._judge()

    def __getstate__(self) -> dict[str, object]:
        """Nothing: Tune saves what it talks to, and nobody restores it (see the ledger)."""
        return {}

    # --- what Tune asks -------------------------------------------------------------------------

    def next_trial(self, tune_id: str) -> Trial | None:
        """A trial to start now, under this id; see `is_over` for None."""
        if self.draining is None:
            self.draining = self.limits.reached(self.replay)
        if self.draining or self.halted or len(self.handed) >= self.slots():
            return None
        number = self.queue.take()
        if number is None:
            number = self._propose()
        if number is None:
            return None
        self.handed[tune_id] = number
        return self.replay.trials[number]

    @property
    def is_over(self) -> bool:
        """Whether there will never be another trial."""
        if self.draining or self.halted:
            return True
        return self.is_exhausted and not self.handed and not self.queue

    def _propose(self) -> int | None:
        # trials that wait for a stage hold no slot; but a search should learn before it asks on
        if self.is_exhausted or len(self.queue) >= 2 * self.slots():
            return None
        number = self.replay.next_number
        proposal = self.proposals.propose(number, self.replay)
        if proposal is None:
            self.is_exhausted = True
            return None
        facts = {"params": proposal.params, "label": proposal.label, "attrs": proposal.attrs}
        known = {name: dict(value) for name, value in facts.items() if value or name == "params"}
        if proposal.study_attrs:
            known["study_attrs"] = dict(proposal.study_attrs)
        self.record("proposed", number, **known)
        return number

    # --- what Tune tells ------------------------------------------------------------------------

    def started(self, tune_id: str) -> None:
        """A trial has its actor."""
        self.record("started", self.handed[tune_id])

    def reported(self, tune_id: str, result: Mapping[str, Any]) -> bool:
        """Whether the trial goes on after a report of `serkd.search.reports`."""
        trial = self.replay.trials[self.handed[tune_id]]
        if result.get("stages"):
            self.record("stages", trial.number, stages=result["stages"])
        if "error" in result:
            self._failed(trial, result["error"], is_full_disk=result["is_full_disk"])
        elif "waits_for" in result:
            self.record("waits", trial.number, waits_for=result["waits_for"], **self._spent(trial))
        elif result.get("values") is not None:
            self._noted(trial, result)
        return trial.state == "running" and not self.draining

    def _noted(self, trial: Trial, result: Mapping[str, Any]) -> None:
        step, values = result["step"], result["values"]
        value = next(iter(values.values()))
        trial.epochs = step
        if self.halving is not None:
            for rung in self.halving.crossed(trial, step):
                self.record("rung", trial.number, step=rung, value=value)
        if result.get("is_finished"):
            facts = {"value": value, "values": values, "epochs": step}
            self.record("finished", trial.number, **facts, **self._spent(trial))
            self.proposals.tell(trial)
        self._judge()

    def ended(self, tune_id: str) -> None:
        """A trial has let go of its actor: it was stopped, or its function returned."""
        trial = self.replay.trials[self.handed.pop(tune_id)]
        if trial.state == "running":
            if self.draining or self.halted:
                reason = self.draining or self.halted
                self.record("preempted", trial.number, reason=reason, **self._spent(trial))
            else:
                self._failed(trial, "the trial ended without a value")
        elif trial.state == "waiting":
            self.queue.put_back(trial.number, trial.facts["waits_for"])

    def died(self, tune_id: str, reason: str, *, is_out_of_memory: bool) -> None:
        """A trial's process, or its node, is gone, perhaps before the trial had started in it."""
        trial = self.replay.trials[self.handed.pop(tune_id)]
        if trial.state in ENDED:
            return
        if trial.state == "waiting":
            self.queue.put_back(trial.number, trial.facts["waits_for"])
        elif is_out_of_memory:
            self._failed(trial, f"out of memory: {reason}")
        elif trial.deaths + 1 >= _MAX_DEATHS:
            self._failed(trial, f"its process died {_MAX_DEATHS} times, the last time: {reason}")
        else:
            spent = self._spent(trial)
            self.record("preempted", trial.number, reason=reason, is_death=True, **spent)
            self.queue.put_first(trial.number)

    def _failed(self, trial: Trial, reason: str, *, is_full_disk: bool = False) -> None:
        if is_full_disk:
            self.record("preempted", trial.number, reason=reason, **self._spent(trial))
            self.halt(
                f"the disk is full: {reason}; free space, then run the same command again: it goes "
                "on from what is stored"
            )
            return
        self.record(
            "failed", trial.number, reason=reason, epochs=trial.epochs, **self._spent(trial)
        )
        self.proposals.tell(trial)
        self.num_failed += 1
        went_well = any(t.state in ("finished", "pruned") or t.rungs for t in self.replay.current())
        if self.num_failed >= _COMMON_BUG and not went_well:
            self.halt(
                f"the first {self.num_failed} trials failed and none did well, the last with: "
                f"{reason}"
            )

    # --- decisions ------------------------------------------------------------------------------

    def _judge(self) -> None:
        if self.halving is None:
            return
        for verdict in self.halving.judge():
            trial = self.replay.trials[verdict.trial]
            is_running = trial.state == "running"
            self.record(
                "pruned",
                trial.number,
                step=verdict.step,
                value=verdict.value,
                cutoff=verdict.cutoff,
                num_peers=verdict.num_peers,
                epochs=trial.epochs,
                **(self._spent(trial) if is_running else {}),
            )
            self.proposals.tell(trial)

    def drain(self, reason: str) -> None:
        """Begin nothing new; running trials stop at their next report, after their checkpoint."""
        self.draining = self.draining or reason

    def halt(self, reason: str) -> None:
        """Stop everything at once."""
        self.halted = self.halted or reason

    # --- records --------------------------------------------------------------------------------

    def record(self, event: str, number: int | None = None, **facts: object) -> None:
        """Write down what happened, and then believe it."""
        record: dict[str, Any] = {"event": event, "time": time.time()}
        if number is not None:
            record["trial"] = number
        record |= facts
        try:
            self.ledger.append(record)
        except LedgerError as error:
            self.broken = error  # Tune wraps what its callbacks raise
            raise
        self.replay.apply(record)
        for listener in self.listeners:
            try:
                listener(record, self.replay)
            except OSError as error:  # a picture of the sweep, not the sweep
                logger.warning("%s: %s", listener, error)

    def _spent(self, trial: Trial) -> dict[str, float]:
        """Seconds of the run that ends here, and of the devices that it held."""
        if trial.started is None or trial.state not in ("running", "proposed"):
            return {}
        seconds = max(0.0, time.time() - trial.started)
        held = {"cpu_s": self.resources.cpu, "gpu_s": self.resources.gpu}
        spent = {"seconds": seconds} | {k: seconds * share for k, share in held.items() if share}
        return {name: round(value, 3) for name, value in spent.items() if math.isfinite(value)}
