"""What a trial tells its sweep while it runs, and the log that it leaves behind."""

import errno
import json
import logging
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune

from serkd.stages.lease import StageBusyError
from serkd.storage.mirror import open_storage
from serkd.storage.sync import push

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TOLD = "told"
_BEAT_EVERY_S = 2.0


class Reports:
    """A trial's way to the sweep; it may be ended in any call that reports."""

    def __init__(self) -> None:
        self._stages: list[dict[str, Any]] = []
        self._last: dict[str, Any] = {"step": 0, "values": None}
        self._told = 0.0

    def stage(self, name: str, key: str, *, is_cached: bool, seconds: float) -> None:
        """A stage is there; travels with the next report."""
        stage = {"name": name, "key": key, "is_cached": is_cached, "seconds": round(seconds, 3)}
        self._stages.append(stage)

    def step(self, step: int, values: Mapping[str, float], *, is_held: bool = False) -> None:
        """After `step` epochs or folds, the objectives are `values`, best so far.

        Steps never decrease. What `is_held` is told with the next report or the end: whoever must
        not be stopped before the result is stored.

        Raises:
            FloatingPointError: a value is not finite.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} must be finite, got {value} at step {step}")
        self._last = {"step": step, "values": dict(values)}
        if not is_held:
            self._tell()

    def beat(self) -> None:
        """Still at work, in a stage before the one that is compared; told every few seconds."""
        if time.monotonic() - self._told > _BEAT_EVERY_S:
            self._tell()

    def finish(self) -> None:
        """All is done and stored."""
        self._tell(is_finished=True)

    def wait(self, key: str) -> None:
        """Somebody else computes what this trial needs next: it gives its slot back."""
        self._tell(waits_for=key)

    def fail(self, error: Exception) -> None:
        """The trial ends here."""
        reason = "".join(traceback.format_exception_only(error)).strip()
        is_full = isinstance(error, OSError) and error.errno in FULL_DISK
        self._tell(error=reason, is_full_disk=is_full)

    def _tell(self, **facts: object) -> None:
        stages, self._stages = self._stages, []
        self._told = time.monotonic()
        # as text: Tune flattens what it is told
        tune.report({TOLD: json.dumps({**self._last, "stages": stages, **facts})})


Train = Callable[[int, Mapping[str, Any], Reports], None]


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep run; sent to their actors once.

    `train` is given a trial's number, its parameters and its reports. `logs` is a folder below
    `storage`, which names the same place on every machine.
    """

    train: Train
    storage: str
    logs: str


def run_in_actor(handed: Mapping[str, Any], job: Job) -> None:
    """Tune's trainable. An exception is a report like others: the actor lives on for the next."""
    number, reports = handed["number"], Reports()
    log = log_path(open_storage(job.storage) / job.logs, number)
    tell = reports.finish
    with _keep_log(log):
        try:
            job.train(number, json.loads(handed["params"]), reports)
        except StageBusyError as busy:
            tell = partial(reports.wait, busy.key)
        except Exception as error:
            traceback.print_exc()
            tell = partial(reports.fail, error)
    push(log)
    tell()


def log_path(folder: Path, number: int) -> Path:
    """Where a trial's log is, all its runs after each other."""
    return folder / f"trial-{number:05d}.log"


@contextmanager
def _keep_log(path: Path) -> Iterator[None]:
    """What is logged and printed goes to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as file:
        file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)
        try:
            with redirect_stdout(file), redirect_stderr(file):
                yield
        finally:
            logging.getLogger().removeHandler(handler)
            sys.stdout.flush()
