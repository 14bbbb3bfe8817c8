"""Looking at a sweep from outside, while it runs or later: what is on the disk is all it takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from serkd.errors import InputError
from serkd.recipe import build_experiment
from serkd.report.boards import Boards
from serkd.report.results import read_json
from serkd.search.asha import Rungs
from serkd.search.ledger import Ledger
from serkd.search.replay import Replay
from serkd.search.reports import log_path
from serkd.search.space import Space
from serkd.search.status import Status, explain, find_status, read_tail
from serkd.search.trial import count_steps
from serkd.search.tuner import choose_rungs
from serkd.section import validate
from serkd.storage.mirror import find_mirror
from serkd.storage.sync import open_folder, pull

_FETCH_EVERY_S = 60.0
_READ = ("ledger.jsonl", "sweep.json", "folds.json")


@dataclass(frozen=True)
class Look:
    """The folder of a sweep or an ablation, read."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def replay(self) -> Replay:
        return Ledger(self.folder / "ledger.jsonl").replay()

    @cached_property
    def space(self) -> Space | None:
        """None for an ablation, which has arms instead."""
        if not (self.folder / "sweep.json").is_file():
            return None
        return validate(Space, read_json(self.folder / "sweep.json")["space"], "sweep.json")

    @cached_property
    def rungs(self) -> Rungs | None:
        """Where trials are compared; none of an ablation is stopped early."""
        if self.space is None:
            return None
        base = build_experiment(read_json(self.folder / "sweep.json")["base"], {})
        num_folds = len(read_json(self.folder / "folds.json")["folds"])
        return choose_rungs(self.space.scheduler, count_steps(self.space, base, num_folds))

    @property
    def status(self) -> Status:
        """Of an ablation, whose cells may be stored before, its trials are those of a ledger."""
        if self.space is not None:
            return find_status(self.replay, self.space.budget.trials)
        starts = self.replay.starts
        return find_status(self.replay, starts[-1].get("total", 0) if starts else 0)

    def explain(self, number: int) -> list[str]:
        """Why a trial is as it is.

        Raises:
            InputError: there is no such trial.
        """
        self._require(number)
        pull(log_path(self.folder / "logs", number))
        return explain(self.replay, number, self.rungs, self.folder / "logs")

    def read_log(self, number: int, lines: int) -> list[str]:
        """The last lines of a trial's log.

        Raises:
            InputError: there is no such trial, or it never ran.
        """
        self._require(number)
        path = log_path(self.folder / "logs", number)
        pull(path)
        if not path.is_file():
            raise InputError(f"trial {number} must have run to have a log, there is no {path}")
        return read_tail(path, lines)

    def _require(self, number: int) -> None:
        if number not in self.replay.trials:
            last = self.replay.next_number - 1
            known = f"0 to {last}" if last >= 0 else "none yet"
            raise InputError(f"TRIAL must be one of {self.folder}'s ({known}), got {number}")


def open_look(sweep: Path, storage: Path) -> Look:
    """A sweep or an ablation by its folder or URI, or by its name in a storage.

    Raises:
        InputError: there is none.
    """
    for folder in (open_folder(sweep), storage / "sweeps" / sweep):
        for name in _READ:  # and not the events of all trials
            pull(folder / name)
        if (folder / "ledger.jsonl").is_file():
            return Look(folder)
    names = sorted(path.parent.name for path in storage.glob("sweeps/*/ledger.jsonl"))
    raise InputError(
        f"SWEEP must be a sweep's folder, or one of {storage}'s "
        f"({', '.join(names) or 'it has none'}), got {sweep}"
    )


def serve_tensorboard(sweep: Path, port: int) -> tuple[str, Callable[[], None]]:
    """Start TensorBoard on loopback; returns its address and a function that waits for Ctrl-C.

    `sweep` is its folder. Where that is a mirror of an object store, it is fetched every minute.

    Raises:
        InputError: the port is taken.
    """
    from tensorboard import program

    folder = sweep / "tensorboard"
    folder.mkdir(parents=True, exist_ok=True)
    _fetch_boards(sweep)
    board = program.TensorBoard()
    board.configure(logdir=str(folder), host="127.0.0.1", port=port, reload_interval=5.0)
    try:
        url = board.launch()
    except program.TensorBoardServerException as error:
        raise InputError(f"--port must be free: {error}") from error

    def wait() -> None:
        while True:
            time.sleep(_FETCH_EVERY_S)
            _fetch_boards(sweep)

    return str(url), wait


def _fetch_boards(sweep: Path) -> None:
    """An object store has no links, and trials elsewhere write their events to it."""
    if find_mirror(sweep) is not None:
        pull(sweep)
        replay = Ledger(sweep / "ledger.jsonl").replay()
        Boards(sweep, replay).link_all(replay)
