"""Folders of runs and sweeps: the same on every machine, and one driver at a time."""

import json
import logging
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from serkd.errors import InputError
from serkd.storage import sync
from serkd.storage.mirror import find_mirror, name_storage, open_storage
from serkd.storage.objects import Entry, connect
from serkd.storage.sync import open_folder, pull, push, synced

Machine = Callable[[str], Path]
LEDGER = "sweeps/s/ledger.jsonl"


def _write(root: Path, text: str, name: str = LEDGER) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_plain_folder_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "sweeps" / "s"
    with synced(folder, has_owner=True):
        _write(tmp_path, "a")
    assert [path.name for path in folder.rglob("*")] == ["ledger.jsonl"]
    assert open_storage(str(tmp_path)) == tmp_path
    assert name_storage(tmp_path) == str(tmp_path.resolve())


def test_what_one_machine_wrote_another_goes_on_with(machine: Machine, uri: str) -> None:
    first, second = machine("first"), machine("second")
    with synced(first / "sweeps" / "s"):
        _write(first, "1\n")
        _write(first, "{}", "sweeps/s/tensorboard/a/events")
        _write(first, "no", "sweeps/s/tune/state.pkl")
        _write(first, "no", "sweeps/s/.results.json.17")
    stored = {entry.path for entry in connect(uri).list("sweeps")}
    assert stored == {LEDGER, "sweeps/s/tensorboard/a/events"}
    with synced(second / "sweeps" / "s"):
        assert (second / LEDGER).read_text() == "1\n"
        _write(second, "1\n2\n")
    pull(first / "sweeps" / "s")
    assert (first / LEDGER).read_text() == "1\n2\n"
    assert open_folder(f"{uri}/sweeps/s") == second / "sweeps" / "s"  # where we are now
    assert name_storage(first) == uri


def test_what_was_not_uploaded_before_a_crash_is_kept_and_uploaded(
    machine: Machine, uri: str
) -> None:
    root = machine("first")
    push(_write(root, "1\n"))
    _write(root, "1\n2\n")  # and the process dies
    with synced(root / "sweeps" / "s"):
        assert (root / LEDGER).read_text() == "1\n2\n"
    assert connect(uri).read(LEDGER) == b"1\n2\n"


def test_where_two_machines_wrote_different_things_the_stores_stays_and_both_are_kept(
    machine: Machine, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = machine("first"), machine("second")
    push(_write(first, "1\n"))
    pull(second / "sweeps" / "s")
    push(_write(second, "1\nsecond\n"))
    _write(first, "1\nfirst\n")
    with caplog.at_level(logging.WARNING):
        pull(first / "sweeps" / "s")
    assert (first / LEDGER).read_text() == "1\nsecond\n"
    assert (first / "sweeps/s/.ledger.jsonl.replaced").read_text() == "1\nfirst\n"
    assert "ledger.jsonl differs" in caplog.text


def test_nothing_is_uploaded_or_fetched_twice(
    machine: Machine, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, store = machine("first"), connect(uri)
    written, write = [], store.write

    def note(path: str, content: bytes) -> Entry:
        written.append(path)
        return write(path, content)

    monkeypatch.setattr(store, "write", note)
    _write(root, "1\n")
    for _ in range(3):
        push(root / "sweeps" / "s")
        pull(root / "sweeps" / "s")
    assert written == [LEDGER]
    monkeypatch.setattr(store, "read", lambda path: pytest.fail(f"{path} is read again"))
    pull(root / "sweeps" / "s")


def test_a_growing_file_is_uploaded_while_the_work_goes_on(
    machine: Machine, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "EVERY_S", 0.05)
    root, store = machine("first"), connect(uri)
    with synced(root / "sweeps" / "s"):
        for text in ("1\n", "1\n2\n"):
            _write(root, text)
            while store.read(LEDGER) != text.encode():
                pass  # the test's time limit ends this


def test_a_second_driver_is_refused_and_a_dead_one_replaced(
    machine: Machine, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "EVERY_S", 0.3)
    monkeypatch.setattr(platform, "node", lambda: "first-host")
    first, second = machine("first") / "sweeps" / "s", machine("second") / "sweeps" / "s"
    with synced(first, has_owner=True):
        monkeypatch.setattr(platform, "node", lambda: "second-host")
        with (
            pytest.raises(InputError, match=rf"process {os.getpid()} of \S+-host is at work"),
            synced(second, has_owner=True),
        ):
            pass
    with synced(second, has_owner=True):  # the first gave it back
        pass
    left = {"host": "gone", "pid": 1, "renewal": "x"}
    connect(uri).write("sweeps/s/.driver", json.dumps(left).encode())
    with synced(second, has_owner=True):  # nobody renews it
        pass
    assert connect(uri).list("sweeps") == []


@pytest.mark.parametrize(
    "text", ["ftp://host/path", "s3://", "hdfs://a/b", "s3://bucket/a?region=x"]
)
def test_other_uris_are_refused_and_no_folder_of_that_name_appears(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--storage must be a folder, s3://bucket/path or gs://"):
        open_storage(text)
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_does_not_exist_is_refused(s3: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be in a bucket that exists, no-such-bucket"):
        open_storage("s3://no-such-bucket/path")


def test_a_path_of_a_uri_opens_the_same_mirror(machine: Machine, uri: str) -> None:
    """The command line makes paths of its arguments, which swallow a slash."""
    root = machine("first")
    assert open_storage(Path(uri)) == open_storage(f"{uri}/") == root
    mirror = find_mirror(root / "runs" / "x")
    assert mirror is not None
    assert mirror.uri == uri
