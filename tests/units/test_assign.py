"""Frames to units on disk, against exact distances."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from serkd.events import Observer
from serkd.features.extract import Sink, extract_frames
from serkd.features.parts import split_frames
from serkd.features.store import list_parts, part_path, read_frames, write_part
from serkd.units.assign import UnitEncoder
from serkd.units.nearest import Codebook


def _write_frames(folder: Path) -> dict[str, np.ndarray]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays = {
        f"u{i}": rng.standard_normal((int(rng.integers(1, 60)), 6)).astype(np.float16)
        for i in range(9)
    }
    for part in range(3):
        mine = [f"u{i}" for i in range(part * 3, part * 3 + 3)]
        write_part(part_path(folder, part), mine, {"layer_2": [arrays[u] for u in mine]})
    return arrays


def _write_units(
    folder: Path, centroids: np.ndarray, genders: Mapping[str, int] | None = None
) -> None:
    encoder = UnitEncoder({"units": [Codebook(book) for book in centroids]}, genders)
    extract_frames(
        "test", split_frames(folder / "hidden", "layer_2"), encoder,
        {"units": Sink(folder / "units", "units")},
        num_actors=0, num_gpus=0.0, observer=Observer(),
    )  # fmt: skip


def test_every_frame_gets_its_nearest_centroid(tmp_path: Path) -> None:
    arrays = _write_frames(tmp_path / "hidden")
    centroids = np.random.default_rng(1).standard_normal((11, 6)).astype(np.float32)
    _write_units(tmp_path, centroids[None])
    units = read_frames(tmp_path / "units", "units")
    assert units.values.dtype == np.int16
    assert units.utt_ids == tuple(sorted(arrays))
    for i, utt_id in enumerate(units.utt_ids):
        exact = cdist(arrays[utt_id].astype(np.float64), centroids.astype(np.float64))
        assert np.array_equal(units[i], exact.argmin(axis=1))


def test_a_restart_writes_only_what_is_missing(tmp_path: Path) -> None:
    _write_frames(tmp_path / "hidden")
    centroids = np.random.default_rng(1).standard_normal((11, 6)).astype(np.float32)
    out = tmp_path / "units"
    _write_units(tmp_path, centroids[None])
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in list_parts(out)}
    part_path(out, 1).unlink()
    _write_units(tmp_path, centroids[None])
    for path, (inode, content) in before.items():
        assert path.read_bytes() == content
        if path != part_path(out, 1):
            assert path.stat().st_ino == inode


def test_ids_that_need_it_are_wider(tmp_path: Path) -> None:
    _write_frames(tmp_path / "hidden")
    centroids = np.random.default_rng(1).standard_normal((1, 20_000, 6)).astype(np.float32)
    genders = {f"u{i}": i % 2 for i in range(9)}
    _write_units(tmp_path, centroids, genders)
    units = read_frames(tmp_path / "units", "units")
    assert units.values.dtype == np.int32
    assert 32_767 < units.values.max() < 40_000


@pytest.mark.parametrize("num_books", [1, 2])
def test_a_gender_moves_ids_by_k_and_picks_its_codebook(tmp_path: Path, num_books: int) -> None:
    arrays = _write_frames(tmp_path / "hidden")
    books = np.random.default_rng(1).standard_normal((num_books, 5, 6)).astype(np.float32)
    genders = {f"u{i}": int(i in (1, 2, 7)) for i in range(9)}
    _write_units(tmp_path, books, genders)
    units = read_frames(tmp_path / "units", "units")
    for i, utt_id in enumerate(units.utt_ids):
        slot = genders[utt_id]
        book = books[slot if num_books == 2 else 0].astype(np.float64)
        exact = cdist(arrays[utt_id].astype(np.float64), book).argmin(axis=1)
        assert np.array_equal(units[i], exact + 5 * slot)


def test_units_do_not_depend_on_where_a_chunk_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_frames(tmp_path / "hidden")
    centroids = np.random.default_rng(1).standard_normal((1, 11, 6)).astype(np.float32)
    _write_units(tmp_path, centroids)
    whole = read_frames(tmp_path / "units", "units")
    (tmp_path / "units").rename(tmp_path / "before")
    monkeypatch.setattr("serkd.units.nearest.CHUNK_FRAMES", 7)
    _write_units(tmp_path, centroids)
    chunked = read_frames(tmp_path / "units", "units")
    assert np.array_equal(chunked.values, whole.values)
    assert np.array_equal(chunked.offsets, whole.offsets)
