"""What a sweep may take: trials, hours of driving, and gigabytes of stages."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from serkd.search.replay import Replay

_LOOK_EVERY_S = 60.0
_GB = 1e9


@dataclass
class Limits:
    """Asked before each trial; the disk is looked at once a minute."""

    trials: int | None = None
    hours: float | None = None
    disk_gb: float | None = None
    stages: Path | None = None
    _looked: float | None = field(default=None, init=False)
    _used_gb: float = field(default=0.0, init=False)

    def list_pending(self, replay: Replay) -> list[int]:
        """Trials to be run (again) first, by number: as many as there is room for.

        Where the budget is smaller than it was, the last ones stay as they are.
        """
        pending = [trial.number for trial in replay.pending()]
        if self.trials is None:
            return pending
        return pending[: max(0, self.trials - len(replay.ended()))]

    def reached(self, replay: Replay) -> str | None:
        """Which limit is reached, in words; None while there is room."""
        if self.hours is not None and replay.driven_s >= 3600 * self.hours:
            return f"the budget of {self.hours:g} hours is used up"
        if self.disk_gb is None or self.stages is None:
            return None
        if self._looked is None or time.monotonic() - self._looked > _LOOK_EVERY_S:
            self._looked, self._used_gb = time.monotonic(), bytes_below(self.stages) / _GB
        if self._used_gb < self.disk_gb:
            return None
        return f"stages take {self._used_gb:.2f} GB of a budget of {self.disk_gb:g} GB"


def bytes_below(folder: Path) -> int:
    """Of all files; those that go away meanwhile do not count."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except OSError:
                continue
    return total
