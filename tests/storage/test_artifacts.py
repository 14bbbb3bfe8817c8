"""Stages in an object store: whole or not seen, whoever publishes, whoever reads."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from serkd.config import Protocol
from serkd.corpora.manifest import Manifest
from serkd.corpora.protocols import build_folds
from serkd.errors import InputError
from serkd.stages.store import StageStore
from serkd.storage.artifacts import delete_artifact
from serkd.storage.objects import connect

Machine = Callable[[str], Path]
NAMES = ("model.txt", "parts/one.txt", "parts/two.txt")


def _build(folder: Path, text: str) -> Path:
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def _publish(root: Path, text: str, seconds: float = 1.0) -> None:
    store = StageStore(root)
    built = _build(store.work("student", "k") / "artifact", text)
    store.publish("student", "k", built, {"seconds": seconds})


def _content(root: Path) -> set[str]:
    found = StageStore(root).find("student", "k")
    assert found is not None
    return {(found.folder / name).read_text() for name in NAMES}


def test_a_second_machine_finds_what_the_first_published(machine: Machine) -> None:
    first, second = machine("first"), machine("second")
    assert first != second
    assert StageStore(second).find("student", "k") is None
    _publish(first, "one", seconds=3.0)
    assert _content(first) == _content(second) == {"one"}
    assert StageStore(second).get("student", "k").seconds == 3.0
    assert not StageStore(first).work("student", "k").exists()


def test_files_are_fetched_when_the_folder_is_asked_for_and_not_before(machine: Machine) -> None:
    """Of a sweep's stages a trial reads the last few; the frames before them stay there."""
    first, second = machine("first"), machine("second")
    _publish(first, "one")
    found = StageStore(second).get("student", "k")
    assert found.read_file("model.txt") == b"one"
    assert found.read_file("history.json") is None
    assert not found.place.exists()
    assert found.folder.is_dir()


_KILLED = """
import os, signal, sys
from pathlib import Path
from serkd.stages.store import StageStore
from serkd.storage.mirror import open_storage
from serkd.storage.objects import ObjectStore

write, upload, count = ObjectStore.write, ObjectStore.upload, 0

def step(self, method, *arguments):
    global count
    count += 1
    if count > int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return method(self, *arguments)

store = StageStore(open_storage(sys.argv[1]))
ObjectStore.upload = lambda self, local, path: step(self, upload, local, path)
ObjectStore.write = lambda self, path, content: step(self, write, path, content)
built = store.work("student", "k") / "artifact"
built.mkdir(parents=True)
for name in ("a.txt", "b.txt"):
    (built / name).write_text("half")
store.publish("student", "k", built, {"seconds": 1.0})
"""


@pytest.mark.parametrize("num_written", [0, 1, 3])
def test_who_is_killed_in_the_middle_of_an_upload_leaves_nothing_to_be_seen(
    machine: Machine, uri: str, num_written: int
) -> None:
    """Before the first file, after the first, and before the mark; then somebody does it again."""
    root = machine("killed")
    command = [sys.executable, "-c", _KILLED, uri, str(num_written)]
    ended = subprocess.run(command, check=False, capture_output=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert len(connect(uri).list("stages")) == num_written
    for name in ("killed", "another"):
        assert StageStore(machine(name)).find("student", "k") is None
    _publish(root, "whole")
    assert _content(machine("another")) == {"whole"}


def test_publishers_of_one_key_at_once_leave_one_artifact_and_no_mixture(
    machine: Machine, uri: str
) -> None:
    """No lease spans two clusters on one bucket."""
    num_publishers = 4
    problems: list[BaseException] = []
    for round_ in range(3):
        roots = [machine(f"{round_}-{n}") for n in range(num_publishers)]
        barrier = threading.Barrier(num_publishers)

        def publish(root: Path, n: int, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                _publish(root, f"by {n}")
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=publish, args=(root, n)) for n, root in enumerate(roots)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        assert len(_content(machine(f"{round_}-reader"))) == 1
        assert all(len(_content(root)) == 1 for root in roots)
        delete_artifact(connect(uri), "stages/student/k")
        assert connect(uri).list("stages") == []


def test_who_publishes_second_goes_on_with_the_firsts(machine: Machine) -> None:
    first, second = machine("first"), machine("second")
    _publish(first, "first")
    _publish(second, "second")
    assert _content(first) == _content(second) == {"first"}


def test_an_object_that_was_cut_short_is_not_taken_for_the_artifact(
    machine: Machine, uri: str
) -> None:
    _publish(machine("first"), "one")
    store = connect(uri)
    (path,) = (e.path for e in store.list("stages") if e.path.endswith("/parts/two.txt"))
    store.write(path, b"on")
    found = StageStore(machine("second")).get("student", "k")
    with pytest.raises(OSError, match=r"two\.txt must have 3 bytes, it has 2"):
        _ = found.folder
    assert not found.place.exists()


def test_fitted_files_of_another_fold_are_refused_on_every_machine(
    machine: Machine, manifest: Manifest
) -> None:
    ours, other, _ = build_folds(Protocol(num_folds=3), manifest)
    store = StageStore(machine("first"))
    built = store.work("student", "k") / "artifact"
    built.mkdir(parents=True)
    said = f'{{"fold": "1", "train_hash": "{ours.train_hash}"}}'
    save_file({"w": np.zeros(1)}, built / "model.safetensors", {"lineage": said})
    info = {"seconds": 1.0, "fold": "1", "train_hash": ours.train_hash}
    store.publish("student", "k", built, info)
    found = StageStore(machine("second")).get("student", "k")
    found.require_fold(ours)
    assert found.fitted_file("model.safetensors", ours).is_file()
    for refused in (found.require_fold, lambda f: found.fitted_file("model.safetensors", f)):
        with pytest.raises(InputError, match="must be fitted on fold 2"):
            refused(other)
