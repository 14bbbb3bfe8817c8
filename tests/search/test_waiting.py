"""Who waits for a stage holds no slot, and does not wait for ever."""

import pytest

from serkd.search import waiting
from serkd.search.waiting import Waiting


def test_it_is_passed_over_until_its_stage_is_there() -> None:
    stored: set[str] = set()
    queue = Waiting([2, 0, 1], stored.__contains__)
    assert queue.take() == 0
    queue.put_back(0, "teacher-1")
    assert [queue.take(), queue.take(), queue.take()] == [1, 2, None]
    assert len(queue) == 1
    stored.add("teacher-1")
    assert queue.take() == 0


def test_it_looks_for_itself_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever computed the stage may have died."""
    now = [0.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    queue, times = Waiting([5], lambda key: False), []
    queue.take()
    while now[0] < 600:
        queue.put_back(5, "teacher-1")
        asked = now[0]
        while queue.take() is None:
            now[0] += 1
        times.append(now[0] - asked)
    assert times[:3] == [4, 8, 16]
    assert max(times) == 120
