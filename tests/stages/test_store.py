"""Publishing: whole or not at all, whoever is first."""

import json
import threading
from pathlib import Path

import pytest

from serkd.errors import InputError
from serkd.stages.store import StageStore


def _build(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.txt").write_text(text)
    (folder / "history.txt").write_text(text)
    return folder


def _content(store: StageStore) -> set[str]:
    found = store.find("student", "k")
    assert found is not None
    return {(found.folder / name).read_text() for name in ("model.txt", "history.txt")}


def test_what_is_not_published_is_not_found(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    assert store.find("student", "k") is None
    _build(store.folder("student", "k"), "half")
    assert store.find("student", "k") is None


def test_a_published_artifact_is_found_whole_and_its_work_is_gone(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    work = store.work("student", "k")
    (work / "checkpoints").mkdir(parents=True)
    published = store.publish("student", "k", _build(work / "artifact", "one"), {"seconds": 2.0})
    assert _content(store) == {"one"}
    assert published.info == json.loads((published.folder / "stage.json").read_text())
    assert (published.seconds, published.info["bytes"]) == (2.0, 6)
    assert not work.exists()


def test_the_second_publisher_of_a_key_gets_the_firsts_artifact(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    for text in ("first", "second"):
        store.publish("student", "k", _build(tmp_path / text, text), {"seconds": 1.0})
    assert _content(store) == {"first"}


def test_an_artifact_of_a_relative_storage_is_found_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that train together have working directories of their own."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = StageStore(Path("storage"))
    work = store.work("student", "k")
    store.publish("student", "k", _build(work / "artifact", "one"), {"seconds": 1.0})
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert _content(store) == {"one"}
    assert store.folder("student", "k").is_relative_to(tmp_path.resolve())


def test_a_torn_folder_in_the_way_is_replaced(tmp_path: Path) -> None:
    """As an interrupted copy or removal leaves it."""
    store = StageStore(tmp_path)
    _build(store.folder("student", "k"), "half")
    store.publish("student", "k", _build(tmp_path / "new", "whole"), {"seconds": 1.0})
    assert _content(store) == {"whole"}


def test_publishers_of_one_key_at_the_same_time_leave_one_good_artifact(tmp_path: Path) -> None:
    """On a cluster the lease is the only guard, and a lease may expire under its holder."""
    num_publishers = 4
    problems: list[BaseException] = []
    for i in range(30):
        store = StageStore(tmp_path / str(i))
        barrier = threading.Barrier(num_publishers)

        def publish(
            text: str, store: StageStore = store, barrier: threading.Barrier = barrier
        ) -> None:
            built = _build(store.root / text, text)
            barrier.wait()
            try:
                store.publish("student", "k", built, {"seconds": 1.0})
            except BaseException as error:
                problems.append(error)

        threads = [
            threading.Thread(target=publish, args=(f"by {n}",)) for n in range(num_publishers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(_content(store)) == 1
    assert problems == []


@pytest.mark.parametrize("uri", ["s3://bucket/sweeps", "gs://bucket"])
def test_an_object_store_is_refused_rather_than_written_to_a_folder_of_that_name(uri: str) -> None:
    with pytest.raises(InputError, match="--storage must be a folder, got "):
        StageStore(Path(uri))  # as the command line hands it over: a Path swallows a slash
