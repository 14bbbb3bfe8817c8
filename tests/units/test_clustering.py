"""Clustering stored frames: the same bits for any number of actors, training frames only."""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import RayActorError

from serkd.errors import InputError
from serkd.features.store import part_path, write_part
from serkd.units.actors import Clustering
from serkd.units.scale import Fitted
from serkd.units.shards import ShardActor

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


SOME = 2_000  # bytes: more than a part's frames, less than all
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
    cache_bytes: float = float("inf"),
) -> Iterator[Clustering]:
    clustering = Clustering(num_actors=num_actors)
    if num_actors:
        cache_bytes = min(cache_bytes, SOME)  # what fits into this process stays here
    try:
        clustering.load(
            folder, COLUMN, train_ids, max_points=max_points, seed=seed, cache_bytes=cache_bytes
        )
        yield clustering
    finally:
        clustering.close()


def _fit(clustering: Clustering, num_clusters: int = 12, seed: int = 0) -> Fitted:
    limits = {"max_iterations": 15, "tolerance": 1e-4, "seed": seed}
    return clustering.fit([num_clusters], **limits)[num_clusters]


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
        assert len(there.shards) == num_actors
        assert here.sizes == there.sizes
        assert list(there.sizes) == [0, 3, 4]
        # several scales from one load, as the stages ask for them
        for num_clusters in (2, 12, 40):
            assert _same(_fit(here, num_clusters), _fit(there, num_clusters))
        assert there.num_frames == sum(len(_make_frames()[n]) for n in few) or max_points
        with pytest.raises(InputError, match=f"training frames = {there.num_frames}, got"):
            _fit(there, there.num_frames + 1)


def test_more_actors_than_parts_are_no_problem(tmp_path: Path, ray_cluster: None) -> None:
    folder = _write(tmp_path / "a", _make_frames(), num_parts=1)
    with _open(folder) as here, _open(folder, num_actors=2) as there:
        assert _same(_fit(here), _fit(there))


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
            local = clustering.shards[0].local
            assert local is not None
            rows = np.concatenate([block for _, block in local.blocks()])
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


@pytest.mark.parametrize("cache_bytes", [0, 800, 2_000])
@pytest.mark.parametrize("max_points", [None, 200])
def test_what_does_not_fit_is_read_again_and_changes_nothing(
    tmp_path: Path, cache_bytes: int, max_points: int | None
) -> None:
    folder = _write(tmp_path / "a", _make_frames())
    with (
        _open(folder, max_points=max_points) as whole,
        _open(folder, max_points=max_points, cache_bytes=cache_bytes) as small,
    ):
        shard = small.shards[0].local
        assert shard is not None
        assert shard.streamed or max_points  # a sample may fit where the whole does not
        assert sum(block.nbytes for block in shard.cache.values()) <= cache_bytes
        assert _same(_fit(whole), _fit(small))


def test_scales_fitted_in_the_same_passes_are_those_of_fits_alone(tmp_path: Path) -> None:
    folder, scales = _write(tmp_path / "a", _make_frames()), (2, 12, 40)
    limits = {"max_iterations": 15, "tolerance": 1e-4, "seed": 3}
    with _open(folder) as clustering:
        alone = {k: clustering.fit([k], **limits)[k] for k in scales}
    with _open(folder) as clustering:
        together = clustering.fit(scales, **limits)
    assert together.keys() == alone.keys()
    assert all(_same(together[k], alone[k]) for k in scales)


@pytest.mark.parametrize("num_actors", [0, 2])
def test_one_layer_after_another_leaves_nothing_behind(
    tmp_path: Path, num_actors: int, ray_cluster: None
) -> None:
    """The shards stay; the second layer has fewer parts and other utterances."""
    frames = _make_frames(seed=1)
    many, few = _write(tmp_path / "a", _make_frames()), _write(tmp_path / "b", frames, 1)
    with _open(few) as clustering:
        expected = _fit(clustering)
    with _open(many, max_points=200, num_actors=num_actors) as clustering:
        before = _fit(clustering)
        actors = [shard.actor for shard in clustering.shards]
        clustering.load(few, COLUMN, TRAIN, cache_bytes=SOME)
        assert _same(_fit(clustering), expected)
        clustering.load(many, COLUMN, TRAIN, max_points=200, cache_bytes=800)
        assert _same(_fit(clustering), before)
        assert [shard.actor for shard in clustering.shards] == actors


@pytest.mark.parametrize("max_points", [None, 300])
def test_an_actor_that_is_killed_in_the_third_pass_changes_no_bit(
    tmp_path: Path, max_points: int | None, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _write(tmp_path / "a", _make_frames())
    # far from converged, so that there are passes enough
    start = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    monkeypatch.setattr(Clustering, "_start", lambda self, k, seed: start)
    with _open(folder, max_points=max_points) as here:
        expected = _fit(here)
    assert len(expected.inertia) > 3
    passes: list[str] = []
    call = Clustering.call

    def count(self: Clustering, method: str, *arguments: object) -> list[Any]:
        passes.append(method)
        if passes.count("add") == 3 and len(passes) < 100:
            passes.extend(["killed"] * 100)
            pid = ray.get(self.shards[1].actor.__ray_call__.remote(lambda shard: os.getpid()))
            os.kill(pid, signal.SIGKILL)
        return call(self, method, *arguments)

    with _open(folder, max_points=max_points, num_actors=2) as there:
        monkeypatch.setattr(Clustering, "call", count)
        found = _fit(there)
        assert [shard.num_deaths for shard in there.shards] == [0, 1]
    assert "killed" in passes
    assert _same(found, expected)


def test_a_shard_whose_actors_keep_dying_fails_loudly(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _write(tmp_path / "a", _make_frames())

    class Dying(ShardActor):
        def add(self, *arguments: object) -> Any:  # noqa: ANN401
            os._exit(1)

    monkeypatch.setattr("serkd.units.handles.ShardActor", Dying)
    with _open(folder, num_actors=1) as clustering, pytest.raises(RayActorError):
        _fit(clustering)


def test_an_actor_that_dies_while_it_is_fed_is_replaced(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = _write(tmp_path / "a", _make_frames()), tmp_path / "died"

    class DyingOnce(ShardActor):
        def feed(self, *arguments: Any) -> Any:  # noqa: ANN401
            try:
                mark.touch(exist_ok=False)
            except FileExistsError:
                return super().feed(*arguments)
            os._exit(1)

    with _open(folder) as here:
        expected = _fit(here)
    monkeypatch.setattr("serkd.units.handles.ShardActor", DyingOnce)
    with _open(folder, num_actors=2) as there:
        assert _same(_fit(there), expected)
    assert mark.exists()


def test_what_fits_stays_in_this_process(tmp_path: Path) -> None:
    """No Ray is running here, and none is started."""
    folder = _write(tmp_path / "a", _make_frames())
    clustering = Clustering(num_actors=2)
    size = sum(path.stat().st_size for path in folder.iterdir())
    clustering.load(folder, COLUMN, TRAIN, cache_bytes=size)
    assert [shard.actor for shard in clustering.shards] == [None]
    assert _fit(clustering).counts.sum() == clustering.num_frames


def test_a_replaced_actor_that_cannot_read_its_parts_fails_loudly(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not go on with fewer frames."""
    folder = _write(tmp_path / "a", _make_frames())
    start = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    monkeypatch.setattr(Clustering, "_start", lambda self, k, seed: start)
    with _open(folder, num_actors=2) as clustering:
        pid = ray.get(clustering.shards[1].actor.__ray_call__.remote(lambda _: os.getpid()))
        for path in folder.iterdir():
            path.unlink()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ray.exceptions.RayTaskError):
            _fit(clustering)
