"""Clustering stored frames: the same bits for any number of actors, training frames only."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from serkd.errors import InputError
from serkd.features.store import part_path, write_part
from serkd.units.actors import Clustering
from serkd.units.kmeans import Fitted

COLUMN = "layer_3"
_CENTRES = 8.0 * np.array(
    [[1, 0, 0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64
)


def _make_frames(seed: int = 0) -> dict[str, np.ndarray]:
    """40 utterances of 5..30 frames around five centres."""
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(40):
        centres = _CENTRES[rng.integers(0, 5, rng.integers(5, 31))]
        found[f"u{i:02d}"] = (centres + 0.3 * rng.standard_normal(centres.shape)).astype(np.float16)
    return found


def _names_of(part: int) -> list[str]:
    """The eight utterances of one of five parts."""
    return [f"u{i:02d}" for i in range(part * 8, part * 8 + 8)]


TRAIN = [f"u{i:02d}" for i in range(40) if i % 5]


def _write(folder: Path, frames: Mapping[str, np.ndarray], num_parts: int = 5) -> Path:
    """Parts whose utterances are not in order, beside a column that must not be read."""
    folder.mkdir()
    names = list(frames)
    size = len(names) // num_parts
    for number in range(num_parts):
        mine = names[number * size : (number + 1) * size][::-1]
        columns = {COLUMN: [frames[n] for n in mine], "layer_9": [-frames[n] for n in mine]}
        write_part(part_path(folder, number), mine, columns)
    return folder


@contextmanager
def _open(
    folder: Path,
    train_ids: Sequence[str] = TRAIN,
    *,
    num_actors: int = 0,
    max_points: int | None = None,
    seed: int = 0,
) -> Iterator[Clustering]:
    clustering = Clustering(
        folder, COLUMN, train_ids, max_points=max_points, seed=seed, num_actors=num_actors
    )
    try:
        yield clustering
    finally:
        clustering.close()


def _fit(clustering: Clustering, num_clusters: int = 12, seed: int = 0) -> Fitted:
    return clustering.fit(num_clusters, max_iterations=15, tolerance=1e-4, seed=seed)


def _same(first: Fitted, second: Fitted) -> bool:
    return (
        first.centroids.tobytes() == second.centroids.tobytes()
        and first.inertia == second.inertia
        and np.array_equal(first.counts, second.counts)
    )


def test_well_separated_centres_are_found(tmp_path: Path) -> None:
    frames = _make_frames()
    with _open(_write(tmp_path / "a", frames)) as clustering:
        fitted = _fit(clustering, num_clusters=5)
    train = np.concatenate([frames[name] for name in TRAIN]).astype(np.float64)
    nearest = ((train[:, None] - _CENTRES) ** 2).sum(axis=2).argmin(axis=1)
    means = np.array([train[nearest == i].mean(axis=0) for i in range(5)])
    order = ((means[:, None] - fitted.centroids) ** 2).sum(axis=2).argmin(axis=1)
    assert np.abs(fitted.centroids[order] - means).max() < 1e-4
    assert np.array_equal(fitted.counts[order], np.bincount(nearest))


@pytest.mark.parametrize("num_actors", [1, 2])
@pytest.mark.parametrize("max_points", [None, 200])
def test_centroids_are_the_same_bits_for_any_number_of_actors(
    tmp_path: Path, num_actors: int, max_points: int | None, ray_cluster: None
) -> None:
    folder = _write(tmp_path / "a", _make_frames())
    # the parts hold eight utterances each: the second and third have none of these
    few = [name for name in TRAIN if name < "u08" or name >= "u24"]
    with (
        _open(folder, few, max_points=max_points) as here,
        _open(folder, few, max_points=max_points, num_actors=num_actors) as there,
    ):
        assert len(there.actors) == num_actors
        assert here.block_sizes == there.block_sizes
        assert sorted(there.block_sizes) == [0, 3, 4]
        # several scales from one load, as the stages ask for them
        for num_clusters in (2, 12, 40):
            assert _same(_fit(here, num_clusters), _fit(there, num_clusters))
        assert there.num_frames == sum(here.block_sizes.values())
        with pytest.raises(InputError, match=f"training frames = {there.num_frames}, got"):
            _fit(there, there.num_frames + 1)


def test_more_actors_than_parts_are_no_problem(tmp_path: Path, ray_cluster: None) -> None:
    folder = _write(tmp_path / "a", _make_frames(), num_parts=1)
    with _open(folder) as here, _open(folder, num_actors=2) as there:
        assert _same(_fit(here), _fit(there))


def test_the_order_of_utterances_in_a_part_has_no_say(tmp_path: Path) -> None:
    frames = _make_frames()
    turned = {name: frames[name] for part in range(5) for name in _names_of(part)[::-1]}
    fitted = []
    for name, content in (("a", frames), ("b", turned)):
        with _open(_write(tmp_path / name, content), max_points=200) as clustering:
            fitted.append(_fit(clustering))
    assert _same(*fitted)


def test_only_training_frames_have_a_say(tmp_path: Path) -> None:
    frames = _make_frames()
    others = {
        name: array if name in TRAIN else np.full((9, 4), 1_000.0, np.float16)
        for name, array in frames.items()
    }
    changed = {**frames, TRAIN[0]: frames[TRAIN[0]] + np.float16(1.0)}
    fitted = []
    for name, content in (("a", frames), ("b", others), ("c", changed)):
        with _open(_write(tmp_path / name, content)) as clustering:
            assert clustering.num_frames == sum(len(frames[n]) for n in TRAIN)
            fitted.append(_fit(clustering))
    assert _same(fitted[0], fitted[1])
    assert not _same(fitted[0], fitted[2])


def test_a_sample_is_of_the_frames_by_the_seed(tmp_path: Path) -> None:
    frames = _make_frames()
    folder = _write(tmp_path / "a", frames)
    train = np.concatenate([frames[name] for name in TRAIN])
    known = {row.tobytes() for row in train}
    samples = []
    for seed in (0, 0, 1):
        with _open(folder, max_points=150, seed=seed) as clustering:
            assert clustering.local is not None
            rows = np.concatenate([b for _, b in sorted(clustering.local.blocks.items())])
        assert {row.tobytes() for row in rows} <= known
        samples.append(rows)
    assert np.array_equal(samples[0], samples[1])
    assert not np.array_equal(samples[0], samples[2])


def test_a_limit_above_the_number_of_frames_changes_nothing(tmp_path: Path) -> None:
    folder = _write(tmp_path / "a", _make_frames())
    with _open(folder) as free, _open(folder, max_points=10**6) as limited:
        assert _same(_fit(free), _fit(limited))


def test_more_clusters_than_training_frames_is_refused(tmp_path: Path) -> None:
    folder = _write(tmp_path / "a", _make_frames())
    with _open(folder, max_points=30) as clustering:
        assert _fit(clustering, num_clusters=30).centroids.shape == (30, 4)
        with pytest.raises(InputError, match="number of training frames = 30, got 31"):
            _fit(clustering, num_clusters=31)
