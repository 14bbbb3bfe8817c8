"""The ledger: what a crash may leave of it, what it says then, and what it costs."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkd.errors import InputError
from serkd.search.ledger import Ledger

RECORDS = [
    {"event": "proposed", "trial": 0, "time": 1.0, "params": {"a": 1}},
    {"event": "started", "trial": 0, "time": 2.0},
    {"event": "proposed", "trial": 1, "time": 2.0, "params": {"a": 2}},
    {"event": "finished", "trial": 0, "time": 3.0, "value": 0.5, "seconds": 1.0},
    {"event": "failed", "trial": 1, "time": 4.0, "reason": 'a\nline break, "quotes" and ümlauts'},
]


def _filled(path: Path) -> Ledger:
    ledger = Ledger(path)
    for record in RECORDS:
        ledger.append(record)
    ledger.close()
    return ledger


def test_records_come_back_in_order(tmp_path: Path) -> None:
    ledger = _filled(tmp_path / "deep" / "ledger.jsonl")
    assert Ledger(ledger.path).read() == RECORDS


def test_a_sweep_that_never_ran_has_an_empty_ledger(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "ledger.jsonl").trials() == []


def test_the_last_state_of_a_trial_wins_and_keeps_what_was_known(tmp_path: Path) -> None:
    trials = _filled(tmp_path / "ledger.jsonl").trials()
    assert [trial["state"] for trial in trials] == ["finished", "failed"]
    assert (trials[0]["params"], trials[0]["value"], trials[0]["seconds"]) == ({"a": 1}, 0.5, 1.0)
    assert trials[1]["reason"] == RECORDS[4]["reason"]


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
    dumped = [json.dumps(record, separators=(",", ":")).encode() for record in RECORDS]
    if lines[-1] and lines[-1] in dumped:
        expected.append(json.loads(lines[-1]))
    ledger = Ledger(path)
    assert ledger.read() == expected
    ledger.append({"event": "started", "trial": 7, "time": 9.0})
    ledger.close()
    assert ledger.read() == [*expected, {"event": "started", "trial": 7, "time": 9.0}]


def test_a_full_disk_leaves_whole_records_and_says_so(tmp_path: Path) -> None:
    """The system refuses to let the file grow; what was there is still read, and goes on later."""
    script = """
import resource, signal, sys
from pathlib import Path
from serkd.search.ledger import Ledger, LedgerError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
ledger = Ledger(Path(sys.argv[1]))
for i in range(100):
    try:
        ledger.append({"event": "started", "trial": i, "time": 0.0, "filling": "x" * 50})
    except LedgerError as error:
        print(i, error)
        break
"""
    path = tmp_path / "ledger.jsonl"
    said = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    ).stdout
    count = int(said.split()[0])
    assert "free space, then run the same command again" in said
    assert 0 < count < 100
    assert path.stat().st_size <= 1_000
    assert path.read_bytes().endswith(b"\n")
    assert [record["trial"] for record in Ledger(path).read()] == [*range(count)]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1_000  # only the other process's


def test_one_driver_at_a_time_and_a_dead_one_frees_the_sweep(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from serkd.search.ledger import Ledger

with Ledger(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""
    path = tmp_path / "ledger.jsonl"
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match=f"process {other.pid} on"), Ledger(path).lock():
            pass
        other.kill()
        other.wait()
        with Ledger(path).lock():
            pass
    finally:
        other.kill()
        other.communicate()


def test_ten_thousand_trials_are_replayed_at_once(tmp_path: Path) -> None:
    """Processor seconds, of which a loaded machine has as few as an idle one."""
    path = tmp_path / "ledger.jsonl"
    lines = []
    for number in range(10_000):
        params = {"a.b": number / 10_000, "c": [16, 64], "d": "root"}
        at = {"trial": number, "time": float(number)}
        stage = {"name": "student", "key": f"{number:032x}", "is_cached": False, "seconds": 1.0}
        lines += [
            {"event": "proposed", "params": params, **at},
            {"event": "started", **at},
            {"event": "stages", "stages": [stage] * 5, **at},
            {"event": "finished", "value": 0.5, "values": {"dev_uar": 0.5}, "seconds": 1.0, **at},
        ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    started = time.process_time()
    trials = Ledger(path).trials()
    assert len(trials) == 10_000
    assert time.process_time() - started < 8.0  # four records a trial: 2 s for 10,000 records
