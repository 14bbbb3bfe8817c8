"""Trials that have a number and no slot: not run yet, preempted, or waiting for a stage."""

import time
from collections.abc import Callable, Sequence

_ASK_AFTER_S, _ASK_AFTER_AT_MOST_S = 4.0, 120.0


class Waiting:
    """A queue by number. A trial that waits for a stage is passed over until the stage is there.

    `is_there` says whether a stage's key is stored. Whoever computes it may die, so after a while,
    longer each time, the trial is let go to see for itself.
    """

    def __init__(self, numbers: Sequence[int], is_there: Callable[[str], bool]) -> None:
        self._ready, self._is_there = sorted(numbers), is_there
        self._held: dict[int, tuple[str, float]] = {}  # key, when it may see for itself
        self._pause: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._ready) + len(self._held)

    def take(self) -> int | None:
        """The smallest number that may run now; it is no longer in the queue."""
        now = time.monotonic()
        for number, (key, until) in list(self._held.items()):
            if now >= until or self._is_there(key):
                del self._held[number]
                self.put_first(number)
        return self._ready.pop(0) if self._ready else None

    def put_first(self, number: int) -> None:
        """It may run at once."""
        self._ready = sorted({*self._ready, number})

    def put_back(self, number: int, key: str) -> None:
        """It waits for a stage."""
        pause = self._pause.get(number, _ASK_AFTER_S)
        self._pause[number] = min(2 * pause, _ASK_AFTER_AT_MOST_S)
        self._held[number] = (key, time.monotonic() + pause)
