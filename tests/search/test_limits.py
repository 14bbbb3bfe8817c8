"""Budgets: trials, hours and gigabytes."""

from pathlib import Path

from serkd.search.limits import Limits
from serkd.search.replay import Replay


def _replay(times: list[float], pending: int = 0) -> Replay:
    """A driver that said something at each time; some trials have not ended."""
    records = [{"event": "started", "trial": 0, "time": time} for time in times]
    records += [{"event": "finished", "trial": 0, "time": times[-1], "value": 0.5}]
    records += [
        {"event": "proposed", "trial": number, "time": times[-1], "params": {}}
        for number in range(1, pending + 1)
    ]
    return Replay(records)


def test_without_limits_nothing_is_reached() -> None:
    assert Limits().reached(_replay([0.0, 1e9])) is None


def test_hours_are_those_of_drivers(tmp_path: Path) -> None:
    hours = Limits(hours=1.0)
    assert hours.reached(_replay([0.0, 3_599.0])) is None
    assert "the budget of 1 hours is used up" in str(hours.reached(_replay([0.0, 3_600.0])))
    replay = _replay([0.0, 600.0])
    # a week without a driver, and a changed file, are nobody's work
    for event, time in (("again", 6e5), ("opened", 6e5), ("started", 6e5 + 60.0)):
        replay.apply({"event": event, "trial": 0, "time": time})
    assert replay.driven_s == 660.0


def test_a_disk_budget_counts_what_stages_take(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "model").write_bytes(bytes(2_000_000))
    assert Limits(disk_gb=0.003, stages=tmp_path).reached(Replay()) is None
    reached = Limits(disk_gb=0.002, stages=tmp_path).reached(Replay())
    assert reached == "stages take 0.00 GB of a budget of 0.002 GB"


def test_a_smaller_number_of_trials_leaves_the_last_ones_pending() -> None:
    replay = _replay([0.0], pending=4)
    assert Limits().list_pending(replay) == [1, 2, 3, 4]
    assert Limits(trials=3).list_pending(replay) == [1, 2]
    assert Limits(trials=1).list_pending(replay) == []
