"""TensorBoard of a sweep: few runs to look at, whatever the number of trials.

Every trial's events are in events/. What TensorBoard is shown are links to some of them, below
tensorboard/: `running`, `best` (the 20 best that are finished), `arms` (of trials that belong to an
arm, the first), and `hparams` with two small files for each trial.
"""

import hashlib
import heapq
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serkd.events import Observer
from serkd.report.hparams import HParams
from serkd.report.plots import draw_confusions
from serkd.report.results import dev_labels, evaluate
from serkd.report.tensorboard import TensorBoard
from serkd.search.replay import ENDED, Replay, Trial
from serkd.stages.catalogue import MODELS

_BEST = 20


class Boards:
    """Hears of every record of the ledger and keeps the folders in order."""

    def __init__(self, folder: Path, replay: Replay, hparams: HParams | None = None) -> None:
        self.events, self.root = folder / "events", folder / "tensorboard"
        self.hparams = hparams
        for link in [*self.root.glob("running/*")]:
            link.unlink()
        self._best(replay)

    def link_all(self, replay: Replay) -> None:
        """What a driver has linked by now, where only files are kept: in an object store."""
        for trial in replay.current():
            self._arm(trial)
            if trial.state == "running":
                self._link("running", trial)

    def __call__(self, record: Mapping[str, Any], replay: Replay) -> None:
        if "trial" not in record:
            return
        trial, event = replay.trials[record["trial"]], record["event"]
        if event == "started":
            self._link("running", trial)
            self._arm(trial)
            if self.hparams is not None:
                self.hparams.start(trial)
        elif event in (*ENDED, "preempted", "waits"):
            (self.root / "running" / _name(trial)).unlink(missing_ok=True)
        if event in ENDED:
            self._best(replay)
            if self.hparams is not None:
                self.hparams.end(trial)

    def _link(self, kind: str, trial: Trial, name: str | None = None) -> None:
        link, target = self.root / kind / (name or _name(trial)), self.events / _name(trial)
        target.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(Path("..") / ".." / "events" / target.name)

    def _arm(self, trial: Trial) -> None:
        if arm := trial.label.get("arm"):
            self._link("arms", trial, _as_file_name(str(arm)))

    def _best(self, replay: Replay) -> None:
        finished = [t for t in replay.current() if t.state == "finished" and t.value is not None]
        best = heapq.nlargest(_BEST, finished, key=lambda trial: trial.value or 0.0)
        wanted = {_name(trial) for trial in best}
        for link in self.root.glob("best/*"):
            if link.name not in wanted:
                link.unlink()
        for trial in best:
            self._link("best", trial)


def _as_file_name(arm: str) -> str:
    """An arm is named by its user; what no folder may be called is told apart by its hash."""
    kept = re.sub(r"[^\w =.,+-]", "_", arm).strip(". ")[:80]
    return kept if kept == arm else f"{kept} {hashlib.sha256(arm.encode()).hexdigest()[:6]}"


def _name(trial: Trial) -> str:
    return f"trial-{trial.number:05d}"


class _TrialBoard(TensorBoard):
    """Curves of all that a trial trains, and how its models confuse dev's emotions."""

    def models(self, stored: Mapping[Any, Any], fold: Any, part: str = "") -> None:  # noqa: ANN401
        names = fold.manifest.class_names
        found = evaluate(stored, dev_labels(fold), names, "dev")
        for model in filter(found.__contains__, MODELS):
            counts = {"dev": np.array(found[model]["dev"]["confusion"])}
            name = f"confusion_dev/{model} {part}".strip()
            self.image(name, draw_confusions(counts, names))
        self.writer.flush()


def watch_trial(folder: Path, number: int) -> Observer:
    """A trial's events, in a folder of its own below the sweep's."""
    return _TrialBoard(folder / "events" / f"trial-{number:05d}")
