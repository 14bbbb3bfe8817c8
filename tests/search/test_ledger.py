"""The ledger: what a crash may leave of it, and what it says then."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkd.search.ledger import Ledger

RECORDS = [
    {"trial": 0, "state": "running", "params": {"a": 1}},
    {"trial": 1, "state": "running", "params": {"a": 2}},
    {"trial": 0, "state": "finished", "value": 0.5},
    {"trial": 1, "state": "failed", "reason": 'a\nline break and "quotes" and ümlauts'},
]


def _filled(path: Path) -> Ledger:
    ledger = Ledger(path)
    for record in RECORDS:
        ledger.append(record)
    return ledger


def test_records_come_back_in_order(tmp_path: Path) -> None:
    ledger = _filled(tmp_path / "deep" / "ledger.jsonl")
    assert Ledger(ledger.path).read() == RECORDS


def test_a_sweep_that_never_ran_has_an_empty_ledger(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "ledger.jsonl").trials() == []


def test_the_last_state_of_a_trial_wins_and_keeps_what_was_known(tmp_path: Path) -> None:
    trials = _filled(tmp_path / "ledger.jsonl").trials()
    assert trials[0] == {"trial": 0, "state": "finished", "params": {"a": 1}, "value": 0.5}
    assert [trial["state"] for trial in trials] == ["finished", "failed"]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 400))
def test_a_torn_end_loses_its_own_record_only(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    """Wherever a crash cuts the file, the whole lines before are kept, and a new one is whole."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    whole = _filled(path).path.read_bytes()
    kept = whole[: max(0, len(whole) - cut)]
    path.write_bytes(kept)
    lines = kept.split(b"\n")
    expected = [json.loads(line) for line in lines[:-1]]
    # without its line break, a record that is otherwise whole still counts
    if lines[-1] and any(lines[-1] == json.dumps(record).encode() for record in RECORDS):
        expected.append(json.loads(lines[-1]))
    ledger = Ledger(path)
    assert ledger.read() == expected
    ledger.append({"trial": 7, "state": "running"})
    assert ledger.read() == [*expected, {"trial": 7, "state": "running"}]
