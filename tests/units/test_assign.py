"""Frames to units on disk, against exact distances."""

from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist

from serkd.events import Observer
from serkd.features.store import list_parts, part_path, read_frames, write_part
from serkd.units.assign import write_units


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


def test_every_frame_gets_its_nearest_centroid(tmp_path: Path) -> None:
    arrays = _write_frames(tmp_path / "hidden")
    centroids = np.random.default_rng(1).standard_normal((11, 6)).astype(np.float32)
    (tmp_path / "units").mkdir()
    write_units(tmp_path / "hidden", "layer_2", centroids, tmp_path / "units", observer=Observer())
    units = read_frames(tmp_path / "units", "units")
    assert units.values.dtype == np.int32
    assert units.utt_ids == tuple(sorted(arrays))
    for i, utt_id in enumerate(units.utt_ids):
        exact = cdist(arrays[utt_id].astype(np.float64), centroids.astype(np.float64))
        assert np.array_equal(units[i], exact.argmin(axis=1))


def test_a_restart_writes_only_what_is_missing(tmp_path: Path) -> None:
    _write_frames(tmp_path / "hidden")
    centroids = np.random.default_rng(1).standard_normal((11, 6)).astype(np.float32)
    out = tmp_path / "units"
    out.mkdir()
    write_units(tmp_path / "hidden", "layer_2", centroids, out, observer=Observer())
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in list_parts(out)}
    part_path(out, 1).unlink()
    write_units(tmp_path / "hidden", "layer_2", centroids, out, observer=Observer())
    for path, (inode, content) in before.items():
        assert path.read_bytes() == content
        if path != part_path(out, 1):
            assert path.stat().st_ino == inode
