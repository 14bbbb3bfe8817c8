"""What long work tells whoever watches it: the terminal, TensorBoard, a Tune trial."""

from collections.abc import Mapping, Sequence
from typing import Any


class Observer:
    """Ignores everything; subclasses override what they want to hear.

    A stage that is read from storage replays its recorded epochs, so that a watcher sees the same
    curve whether the stage ran or not.
    """

    def stage(self, name: str, key: str, *, is_cached: bool, seconds: float) -> None:
        """A stage's artifact is ready; `seconds` is what computing it took, now or earlier."""

    def progress(self, stage: str, done: int, total: int, unit: str, note: str = "") -> None:
        """`done` of `total` `unit`s of a running stage are finished; `note` says more of it."""

    def epoch(self, stage: str, record: Mapping[str, Any]) -> None:
        """An epoch of a training stage ended; `record` has `epoch`, losses and metrics."""

    def models(self, stored: Mapping[Any, Any], fold: Any, part: str = "") -> None:  # noqa: ANN401
        """A trial's models are stored: artifacts by stage, of a `corpora.folds.Fold`.

        `part` says of what, where a trial has several.
        """

    def sweep(self, status: Any) -> None:  # noqa: ANN401  a serkd.search.status.Status
        """A sweep's counts have changed."""


class Observers(Observer):
    """Tells several observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = tuple(observers)

    def stage(self, name: str, key: str, *, is_cached: bool, seconds: float) -> None:
        for observer in self.observers:
            observer.stage(name, key, is_cached=is_cached, seconds=seconds)

    def progress(self, stage: str, done: int, total: int, unit: str, note: str = "") -> None:
        for observer in self.observers:
            observer.progress(stage, done, total, unit, note)

    def epoch(self, stage: str, record: Mapping[str, Any]) -> None:
        for observer in self.observers:
            observer.epoch(stage, record)

    def models(self, stored: Mapping[Any, Any], fold: Any, part: str = "") -> None:  # noqa: ANN401
        for observer in self.observers:
            observer.models(stored, fold, part)


class Within(Observer):
    """Tells another observer, with a part added to the names of stages."""

    def __init__(self, observer: Observer, part: str) -> None:
        self.observer, self.part = observer, part

    def stage(self, name: str, key: str, *, is_cached: bool, seconds: float) -> None:
        self.observer.stage(f"{name} {self.part}", key, is_cached=is_cached, seconds=seconds)

    def progress(self, stage: str, done: int, total: int, unit: str, note: str = "") -> None:
        self.observer.progress(f"{stage} {self.part}", done, total, unit, note)

    def epoch(self, stage: str, record: Mapping[str, Any]) -> None:
        self.observer.epoch(f"{stage} {self.part}", record)

    def models(self, stored: Mapping[Any, Any], fold: Any, part: str = "") -> None:  # noqa: ANN401
        self.observer.models(stored, fold, f"{part} {self.part}".strip())
