"""Lloyd's iterations against scikit-learn, exact sums, and empty clusters."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from starts import seed_centroids

from serkd.errors import InputError
from serkd.units.kmeans import fit_lloyd
from serkd.units.nearest import assign_units, build_searcher
from serkd.units.scale import Fitted, split_empty
from serkd.units.seeding import choose_greedily, plan_start
from serkd.units.sums import Sums, Tally, add_blocks, merge_sums, square_sum

AddAll = Callable[[Mapping[int, np.ndarray]], Mapping[int, Sums]]


def _over(*blocks: np.ndarray) -> AddAll:
    tallies: dict[int, Tally] = {}
    return lambda centroids: add_blocks(list(enumerate(blocks)), centroids, tallies)


def _fit(
    frames: np.ndarray, start: np.ndarray, max_iterations: int = 300, tolerance: float = 0.0
) -> Fitted:
    return fit_lloyd(
        _over(frames),
        {len(start): start},
        squares=square_sum(frames),
        max_iterations=max_iterations,
        tolerance=tolerance,
        seed=0,
    )[len(start)]


def _units(frames: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return assign_units(build_searcher(centroids), frames)[0]


def _data(seed: int, num_frames: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 3.0 * rng.standard_normal((7, dim))
    frames = centres[rng.integers(0, 7, num_frames)] + rng.standard_normal((num_frames, dim))
    return frames.astype(np.float16)


@pytest.mark.parametrize("num_clusters", [2, 5, 16, 40])
@pytest.mark.parametrize(("num_frames", "dim"), [(400, 3), (1_500, 24)])
def test_equals_scikit_learn_from_the_same_start(
    num_clusters: int, num_frames: int, dim: int
) -> None:
    frames = _data(num_clusters, num_frames, dim)
    rng = np.random.default_rng(num_clusters)
    start = frames[rng.choice(num_frames, num_clusters, replace=False)].astype(np.float32)
    reference = KMeans(
        num_clusters, init=start.astype(np.float64), n_init=1, algorithm="lloyd", tol=0.0
    ).fit(frames.astype(np.float64))
    fitted = _fit(frames, start)
    assert np.abs(fitted.centroids - reference.cluster_centers_).max() < 1e-4
    assert np.array_equal(_units(frames, fitted.centroids), reference.labels_)
    assert np.array_equal(fitted.counts, np.bincount(reference.labels_, minlength=num_clusters))
    assert fitted.inertia[-1] == pytest.approx(reference.inertia_, rel=1e-5)


def test_assignment_equals_exact_distances() -> None:
    frames, centroids = _data(0, 500, 12), _data(1, 33, 12).astype(np.float32)
    exact = cdist(frames.astype(np.float64), centroids.astype(np.float64), "sqeuclidean")
    ids, distances = assign_units(build_searcher(centroids), frames)
    assert np.array_equal(ids, exact.argmin(axis=1))
    assert np.allclose(distances, exact.min(axis=1), rtol=1e-4, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), num_clusters=st.integers(2, 12))
def test_inertia_never_rises_while_no_cluster_is_empty(seed: int, num_clusters: int) -> None:
    frames = _data(seed, 300, 4)
    start = seed_centroids(frames, num_clusters, seed)
    fitted = _fit(frames, start, max_iterations=50)
    history = np.array(fitted.inertia)
    # float32 distances: a part in 1e5
    assert (np.diff(history) <= 1e-5 * history[:-1]).all()


def test_iterations_and_tolerance_stop_the_fit() -> None:
    frames = _data(3, 1_500, 8)
    # far off, so that the first inertia is no measure of the later ones
    start = frames[:30].astype(np.float32) + 40.0
    whole = _fit(frames, start).inertia
    assert len(whole) > 5
    assert _fit(frames, start, max_iterations=3).inertia == whole[:3]
    improvements = [(a - b) / a for a, b in pairwise(whole)]
    tolerance = improvements[2]
    stopped = next(i for i, gain in enumerate(improvements) if gain <= tolerance)
    assert _fit(frames, start, tolerance=tolerance).inertia == whole[: stopped + 2]


def test_sums_are_exact() -> None:
    # from 2^-24 to 65504: the whole range of float16, where a rounded sum would show
    rng = np.random.default_rng(0)
    frames = (2.0 ** rng.uniform(-24, 15.9, (600, 5)) * rng.choice([-1, 1], (600, 5))).astype(
        np.float16
    )
    centroids = frames[:4].astype(np.float32)
    total = add_blocks([(0, frames)], {4: centroids}, {})[4]
    ids = _units(frames, centroids)
    for unit in range(4):
        mine = frames[ids == unit].astype(np.float64)
        assert total.counts[unit] == len(mine)
        assert total.sums[unit].tolist() == [math.fsum(column) for column in mine.T]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1_000))
def test_shards_add_up_to_the_same_bits_in_any_number_and_order(
    data: st.DataObject, seed: int
) -> None:
    frames = _data(seed, 400, 6)
    blocks = [(i, frames[i * 50 : (i + 1) * 50]) for i in range(8)]
    start = frames[:9].astype(np.float32)
    num_shards = data.draw(st.integers(1, 8))
    order = data.draw(st.permutations(blocks))
    shards: Sequence[Sequence[tuple[int, np.ndarray]]] = [
        order[i::num_shards] for i in range(num_shards)
    ]

    tallies: list[dict[int, Tally]] = [{} for _ in shards]

    def add_all(centroids: Mapping[int, np.ndarray]) -> Mapping[int, Sums]:
        return merge_sums(
            add_blocks(shard, centroids, mine) for shard, mine in zip(shards, tallies, strict=True)
        )

    limits = {"squares": square_sum(frames), "max_iterations": 10, "tolerance": 1e-4, "seed": 0}
    one = fit_lloyd(_over(*(frames for _, frames in blocks)), {9: start}, **limits)[9]
    many = fit_lloyd(add_all, {9: start}, **limits)[9]
    assert many.centroids.tobytes() == one.centroids.tobytes()
    assert many.inertia == one.inertia


def _exact_sums(frames: np.ndarray, ids: np.ndarray, num_clusters: int) -> list[list[float]]:
    wide = frames.astype(np.float64)
    return [[math.fsum(column) for column in wide[ids == k].T] for k in range(num_clusters)]


def test_adding_only_what_moved_gives_the_sums_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many passes with other centroids, to the last bit, in chunks that do not divide."""
    monkeypatch.setattr("serkd.units.sums.CHUNK_FRAMES", 97)
    frames = _data(5, 700, 6)
    blocks, tallies = [(3, frames[:260]), (1, frames[260:])], {}
    rng = np.random.default_rng(0)
    for _ in range(6):
        centroids = frames[rng.choice(700, 11, replace=False)].astype(np.float32)
        total = add_blocks(blocks, {11: centroids}, tallies)[11]
        ids = _units(frames, centroids)
        expected = _exact_sums(frames, ids, 11)
        assert total.sums.tolist() == [row or [0.0] * 6 for row in expected]
        assert np.array_equal(total.counts, np.bincount(ids, minlength=11))
        known = np.concatenate([tallies[11].units[3], tallies[11].units[1]])
        assert np.array_equal(known, ids)
    again = add_blocks(blocks, {11: centroids}, tallies)[11]
    assert np.array_equal(again.sums, tallies[11].sums) and again.counts.sum() == len(frames)


def test_scales_side_by_side_are_those_of_separate_fits() -> None:
    frames = _data(2, 900, 8)
    starts = {k: frames[:k].astype(np.float32) for k in (3, 17, 40)}
    limits = {"squares": square_sum(frames), "max_iterations": 30, "tolerance": 1e-4, "seed": 4}
    together = fit_lloyd(_over(frames), starts, **limits)
    lengths = set()
    for k, start in starts.items():
        alone = fit_lloyd(_over(frames), {k: start}, **limits)[k]
        assert together[k].centroids.tobytes() == alone.centroids.tobytes()
        assert together[k].inertia == alone.inertia
        lengths.add(len(alone.inertia))
    assert len(lengths) > 1  # one that has ended does not stop the others


def test_inertia_is_the_sum_of_squared_distances() -> None:
    # far from the origin, where the short formula cancels
    frames = (_data(1, 800, 6).astype(np.float32) + 60.0).astype(np.float16)
    fitted = _fit(frames, frames[:7].astype(np.float32), max_iterations=1)
    exact = cdist(frames.astype(np.float64), frames[:7].astype(np.float64), "sqeuclidean")
    assert fitted.inertia[0] == pytest.approx(exact.min(axis=1).sum(), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1_000), num_clusters=st.integers(1, 30))
def test_greedy_starts_are_distinct_points(seed: int, num_clusters: int) -> None:
    points = _data(seed, 60, 5).astype(np.float32)
    points[20:40] = points[:20]  # equals, which no distance tells apart
    rng = np.random.default_rng(seed)
    starts = choose_greedily(points, num_clusters, 3, rng)
    assert len(starts) == 3
    for chosen in starts:
        assert len(set(chosen.tolist())) == num_clusters


def test_a_start_is_better_than_random_frames_and_close_to_many_restarts() -> None:
    frames = _data(0, 6_000, 24)
    found = _fit(frames, seed_centroids(frames, 20, 0), 50, 1e-4).inertia[-1]
    wide = frames.astype(np.float32)
    reference = KMeans(20, n_init=20, random_state=0).fit(wide).inertia_
    assert found <= 1.01 * reference
    rng = np.random.default_rng(0)
    random = [
        _fit(frames, wide[rng.choice(6_000, 20, replace=False)], 50, 1e-4).inertia[-1]
        for _ in range(5)
    ]
    assert found < min(random)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), num_clusters=st.integers(2, 20))
def test_empty_clusters_are_split_until_all_are_used(seed: int, num_clusters: int) -> None:
    rng = np.random.default_rng(seed)
    frames = np.unique(rng.standard_normal((120, 3)).astype(np.float16), axis=0)
    # the worst start: every centroid in one place, so that all but one are empty
    start = np.repeat(frames[:1].astype(np.float32), num_clusters, axis=0)
    fitted = _fit(frames, start, max_iterations=100, tolerance=1e-4)
    assert len(set(_units(frames, fitted.centroids).tolist())) == num_clusters


@pytest.mark.parametrize("level", [0.0, 0.7, -5.0])
def test_all_clusters_are_used_although_most_frames_are_the_same(level: float) -> None:
    # digital silence: a thousand equal frames, and few that differ
    for seed in range(3):
        rng = np.random.default_rng(seed)
        speech = rng.standard_normal((40, 4)).astype(np.float16)
        frames = np.concatenate([np.full((1_000, 4), level, np.float16), speech])
        fitted = _fit(frames, seed_centroids(frames, 12, seed), 25, 1e-4)
        assert len(set(_units(frames, fitted.centroids).tolist())) == 12


def test_splitting_is_symmetric_and_takes_from_large_clusters() -> None:
    centroids = np.array([[1.0, 2.0], [3.0, -4.0], [9.0, 9.0]])
    counts = np.array([1, 50, 0])
    split = split_empty(centroids, counts, np.random.default_rng(0))
    assert np.array_equal(split[0], centroids[0])  # one frame cannot be shared
    assert np.allclose((split[1] + split[2]) / 2.0, centroids[1], rtol=1e-12)
    assert not np.array_equal(split[1], split[2])
    assert np.allclose(split[1:], centroids[1], rtol=2e-3)
    assert np.array_equal(centroids[2], [9.0, 9.0])  # the argument is left alone


def test_nothing_to_share_leaves_the_centroids() -> None:
    centroids = np.arange(6.0).reshape(3, 2)
    counts = np.array([1, 1, 0])
    assert np.array_equal(split_empty(centroids, counts, np.random.default_rng(0)), centroids)


def test_as_many_clusters_as_frames_gives_each_frame_its_own() -> None:
    frames = _data(0, 20, 3)
    fitted = _fit(frames, seed_centroids(frames, 20, 0))
    assert np.array_equal(
        np.unique(fitted.centroids, axis=0), np.unique(frames.astype(np.float32), axis=0)
    )
    assert fitted.inertia[-1] == pytest.approx(0.0, abs=1e-3)


def test_more_clusters_than_frames_is_refused() -> None:
    assert len(plan_start(10, 10, 0).refined) == 10
    with pytest.raises(InputError, match="at most the number of training frames = 10, got 11"):
        plan_start(10, 11, 0)


@settings(max_examples=50, deadline=None)
@given(num_frames=st.integers(2, 5_000), seed=st.integers(0, 1_000))
def test_the_start_is_drawn_from_distinct_sorted_frames(num_frames: int, seed: int) -> None:
    plan, again = plan_start(num_frames, 2, seed), plan_start(num_frames, 2, seed)
    for name, most in (("refined", 65_536), ("scored", 16_384), ("candidates", 4_096)):
        found = getattr(plan, name)
        assert (np.diff(found) > 0).all()
        assert found[0] >= 0
        assert found[-1] < num_frames
        assert len(found) == min(num_frames, most)
        assert np.array_equal(found, getattr(again, name))
    assert set(plan.candidates) <= set(plan.scored) <= set(plan.refined)
