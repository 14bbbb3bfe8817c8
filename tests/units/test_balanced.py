"""Balanced clusters: exact with prices, about equal in size, and the same on any shards."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from starts import seed_centroids

from serkd.units.kmeans import fit_lloyd
from serkd.units.nearest import Codebook, Nearest
from serkd.units.scale import Fitted
from serkd.units.sums import Sums, Tally, add_blocks, merge_sums, square_sum


def _skewed(seed: int, num_frames: int, dim: int, spread: float = 0.5) -> np.ndarray:
    """A mixture of 60 parts with Zipf's weights."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, 61)
    parts = rng.choice(60, num_frames, p=weights / weights.sum())
    centres = spread * rng.standard_normal((60, dim))
    return (centres[parts] + rng.standard_normal((num_frames, dim))).astype(np.float16)


def _fit_all(
    frames: np.ndarray,
    starts: Mapping[int, Codebook | np.ndarray],
    *,
    balanced: bool = True,
    max_iterations: int = 40,
) -> dict[int, Fitted]:
    tallies: dict[int, Tally] = {}
    return fit_lloyd(
        lambda books: add_blocks([(0, frames)], books, tallies),
        starts,
        squares=square_sum(frames),
        max_iterations=max_iterations,
        tolerance=1e-4,
        seed=0,
        balanced=balanced,
    )


def _fit(
    frames: np.ndarray, start: np.ndarray, *, balanced: bool = True, max_iterations: int = 40
) -> Fitted:
    fitted = _fit_all(frames, {len(start): start}, balanced=balanced, max_iterations=max_iterations)
    return fitted[len(start)]


def _costs(frames: np.ndarray, centroids: np.ndarray, prices: np.ndarray | None) -> np.ndarray:
    exact = cdist(frames.astype(np.float64), centroids.astype(np.float64), "sqeuclidean")
    return exact if prices is None else exact + prices.astype(np.float64)


def _ratio(fitted: Fitted) -> float:
    return float(fitted.counts.max() / max(fitted.counts.min(), 1))


@pytest.mark.parametrize("use_sieve", [True, False])
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dim=st.sampled_from([3, 16, 100]),
    num_clusters=st.integers(2, 60),
    highest=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    offset=st.sampled_from([0.0, 40.0, -300.0]),
)
def test_assignment_is_the_least_of_distance_and_price(
    use_sieve: bool, seed: int, dim: int, num_clusters: int, highest: float, offset: float
) -> None:
    frames = _skewed(seed, 300, dim)
    frames[:, :2] += np.float16(offset)  # channels far from zero, as hidden states have
    rng = np.random.default_rng(seed)
    centroids = frames[:num_clusters].astype(np.float32) + 0.01
    prices = (highest * rng.random(num_clusters)).astype(np.float32)
    costs = _costs(frames, centroids, prices)
    ids = Nearest(centroids, prices, use_sieve=use_sieve).assign(frames)
    squares = np.square(frames.astype(np.float64)).sum(axis=1)
    # what float32 cannot tell apart may go either way
    least = costs.min(axis=1)
    assert (costs[np.arange(300), ids] - least <= 1e-5 * (squares + highest)).all()


def test_with_and_without_the_sieve_priced_answers_are_the_same() -> None:
    frames = _skewed(0, 10_000, 64, 1.0)
    rng = np.random.default_rng(0)
    centroids = frames[rng.choice(len(frames), 50, replace=False)].astype(np.float32)
    prices = (20.0 * rng.random(50)).astype(np.float32)
    sieved = Nearest(centroids, prices, use_sieve=True)
    priced = Nearest(centroids, prices, use_sieve=False).assign(frames)
    assert np.array_equal(sieved.assign(frames), priced)
    assert np.array_equal(priced, _costs(frames, centroids, prices).argmin(axis=1))
    assert (priced != Nearest(centroids).assign(frames)).mean() > 0.1  # prices do something
    assert sieved.sieve is not None
    ids, is_open = sieved.sieve.pass_through(frames)
    assert 0.0 < is_open.mean() < 0.5
    assert np.array_equal(ids[~is_open], priced[~is_open])


@pytest.mark.parametrize("use_sieve", [True, False])
def test_prices_of_zero_are_none(use_sieve: bool) -> None:
    frames = _skewed(1, 5_000, 24)
    centroids = frames[:40].astype(np.float32)
    plain = Nearest(centroids, use_sieve=use_sieve).assign(frames)
    free = Nearest(centroids, np.zeros(40, np.float32), use_sieve=use_sieve)
    assert np.array_equal(free.assign(frames), plain)
    # the same price for all changes nothing either, though it is added
    equal = Nearest(centroids, np.full(40, 3.0, np.float32), use_sieve=use_sieve)
    assert equal.is_priced
    assert np.array_equal(equal.assign(frames), plain)


@pytest.mark.parametrize("num_clusters", [12, 80])
def test_sizes_are_about_equal_and_inertia_is_not_much_worse(num_clusters: int) -> None:
    frames = _skewed(0, 12_000, 32, 0.8)
    start = seed_centroids(frames, num_clusters, 0)
    plain, even = _fit(frames, start, balanced=False), _fit(frames, start)
    assert _ratio(even) < min(1.6, 0.8 * _ratio(plain))
    assert even.inertia[-1] < 1.03 * plain.inertia[-1]


@pytest.mark.parametrize("num_clusters", [12, 80])
def test_a_fit_ends_when_counts_are_even(num_clusters: int) -> None:
    frames = _skewed(0, 12_000, 32)
    even = _fit(frames, seed_centroids(frames, num_clusters, 0))
    assert len(even.inertia) < 40
    share = 12_000 / num_clusters
    assert np.abs(even.counts - share).max() <= 0.1 * share
    assert abs(even.inertia[-1] - even.inertia[-2]) <= 1e-4 * even.inertia[-2]


def test_groups_far_apart_bound_what_balance_may_cost() -> None:
    # a group of a third of a share has no equal: nothing near makes it whole
    frames = _skewed(2, 12_000, 32, 3.0)
    start = seed_centroids(frames, 60, 0)
    plain, even = _fit(frames, start, balanced=False), _fit(frames, start)
    assert _ratio(even) < 0.2 * _ratio(plain)
    assert even.prices is not None
    # prices reach no further than half of the mean squared distance
    worst = max(even.inertia) / 12_000
    assert even.prices.max() <= 0.5 * worst * (1.0 + 1e-5)


def test_counts_inertia_and_prices_are_those_of_the_centroids() -> None:
    frames = _skewed(3, 6_000, 16)
    # too few passes, so that the evenest one is what is left
    for max_iterations in (1, 6, 60):
        found = _fit(frames, frames[:30].astype(np.float32), max_iterations=max_iterations)
        assert found.prices is not None
        assert found.prices.dtype == np.float32
        assert found.prices.min() == 0.0
        ids = Nearest(found.centroids, found.prices).assign(frames)
        assert np.array_equal(np.bincount(ids, minlength=30), found.counts)
        distances = _costs(frames, found.centroids, None)[np.arange(6_000), ids]
        assert found.inertia[-1] == pytest.approx(distances.sum(), rel=1e-9)


def test_no_partition_into_the_same_sizes_has_less_inertia() -> None:
    frames = _skewed(4, 400, 6)
    found = _fit(frames, frames[:10].astype(np.float32))
    distances = _costs(frames, found.centroids, None)
    places = np.repeat(np.arange(10), found.counts)  # one for each frame
    rows, columns = linear_sum_assignment(distances[:, places])
    optimum = distances[rows, places[columns]].sum()
    assert found.inertia[-1] == pytest.approx(optimum, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1_000))
def test_shards_give_the_same_bits_in_any_number_and_order(data: st.DataObject, seed: int) -> None:
    frames = _skewed(seed, 400, 6)
    blocks = [(i, frames[i * 50 : (i + 1) * 50]) for i in range(8)]
    num_shards = data.draw(st.integers(1, 8))
    order = data.draw(st.permutations(blocks))
    shards = [order[i::num_shards] for i in range(num_shards)]
    tallies: list[dict[int, Tally]] = [{} for _ in shards]

    def add_all(books: Mapping[int, Codebook]) -> Mapping[int, Sums]:
        return merge_sums(
            add_blocks(shard, books, mine) for shard, mine in zip(shards, tallies, strict=True)
        )

    starts = {k: frames[:k].astype(np.float32) for k in (5, 9, 20)}
    limits = {"squares": square_sum(frames), "max_iterations": 15, "tolerance": 1e-4, "seed": 0}
    many = fit_lloyd(add_all, starts, **limits, balanced=True)
    for k, start in starts.items():
        # one block, and one scale alone
        one = _fit(frames, start, max_iterations=15)
        assert many[k].centroids.tobytes() == one.centroids.tobytes()
        assert many[k].prices.tobytes() == one.prices.tobytes()
        assert many[k].inertia == one.inertia


def test_a_fit_goes_on_from_prices() -> None:
    frames = _skewed(5, 6_000, 16)
    found = _fit(frames, seed_centroids(frames, 20, 0))
    again = _fit_all(frames, {20: Codebook(found.centroids, found.prices)}, max_iterations=1)[20]
    assert np.array_equal(again.counts, found.counts)
    assert again.inertia[-1] == found.inertia[-1]


def test_without_balance_there_are_no_prices() -> None:
    frames = _skewed(6, 2_000, 8)
    seen: list[Codebook] = []

    def add_all(books: Mapping[int, Codebook]) -> Mapping[int, Sums]:
        seen.extend(books.values())
        return add_blocks([(0, frames)], books, {})

    limits = {"squares": square_sum(frames), "max_iterations": 5, "tolerance": 0.0, "seed": 0}
    fitted = fit_lloyd(add_all, {9: frames[:9].astype(np.float32)}, **limits)[9]
    assert fitted.prices is None
    assert [book.prices for book in seen] == [None] * 5


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), num_clusters=st.integers(2, 20))
def test_empty_clusters_are_filled(seed: int, num_clusters: int) -> None:
    frames = _skewed(seed, 1_000, 4)
    # the worst start: every centroid in one place, so that all but one are empty
    start = np.repeat(frames[:1].astype(np.float32), num_clusters, axis=0)
    found = _fit(frames, start, max_iterations=60)
    assert found.counts.min() > 0
    # from this start 60 iterations need not reach what a good start does
    assert _ratio(found) < 3.0


def test_equal_frames_stay_together_and_the_others_are_balanced() -> None:
    # digital silence: more than a fair share of frames that no price can part
    speech = _skewed(7, 3_000, 12)
    frames = np.concatenate([np.full((1_000, 12), 0.25, np.float16), speech])
    found = _fit(frames, seed_centroids(frames, 30, 0), max_iterations=60)
    assert found.prices is not None
    assert np.isfinite(found.prices).all()
    assert found.counts.max() >= 1_000
    others = np.sort(found.counts)[1:-1]  # one shares its place with silence
    assert others.max() < 1.5 * others.min()


def test_as_many_clusters_as_frames_gives_each_frame_its_own() -> None:
    frames = _skewed(8, 20, 3)
    found = _fit(frames, seed_centroids(frames, 20, 0))
    assert (found.counts == 1).all()
    assert found.inertia[-1] == pytest.approx(0.0, abs=1e-3)


def test_one_cluster_has_all() -> None:
    frames = _skewed(9, 200, 3)
    found = _fit(frames, frames[:1].astype(np.float32))
    assert found.counts.tolist() == [200]
    assert found.prices is not None
    assert found.prices.tolist() == [0.0]
