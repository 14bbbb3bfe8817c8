"""Tune's callbacks, written down in the ledger."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from serkd.search.ledger import Ledger
from serkd.search.suggest import decode_params


class LedgerCallback(tune.Callback):
    """Writes what happens to each trial to the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.first = 1 + max((record["trial"] for record in self.ledger.read()), default=-1)
        self.numbers: dict[str, int] = {}

    def _note(self, trials: list[TuneTrial]) -> None:
        """Number the trials as they were proposed, which need not be how they start."""
        for i, trial in enumerate(trials):
            self.numbers[trial.trial_id] = self.first + i

    def _append(self, trial: TuneTrial, state: str, **fields: object) -> None:
        record = {
            "trial": self.numbers[trial.trial_id],
            "state": state,
            "time": time.time(),
            "trial_id": trial.trial_id,
            "params": decode_params(trial.config),
        }
        self.ledger.append({**record, **fields})

    def on_trial_start(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        **info: object,
    ) -> None:
        self._note(trials)
        self._append(trial, "running")

    def on_trial_complete(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        **info: object,
    ) -> None:
        result: Mapping[str, Any] = trial.last_result or {}
        value = result.get("dev_uar")
        if value is None or not math.isfinite(value):
            self._append(trial, "failed", reason="the trial ended without a dev UAR")
            return
        self._append(
            trial,
            "finished" if result["is_finished"] else "pruned",
            value=value,
            epochs=result["epoch"],
            stage_requests=result["stage_requests"],
            stages_computed=result["stages_computed"],
            seconds=result.get("time_total_s"),
        )

    def on_trial_error(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        **info: object,
    ) -> None:
        text = ""
        if trial.error_file and Path(trial.error_file).is_file():
            text = Path(trial.error_file).read_text(encoding="utf-8")
        self._append(trial, "failed", reason=error_message(text) or "unknown")


def error_message(traceback: str) -> str:
    """What stands below the last, indented frame of a traceback: the error, all its lines."""
    lines = traceback.rstrip().splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith(" ")]
    return "\n".join(lines[frames[-1] + 1 :] if frames else lines)
