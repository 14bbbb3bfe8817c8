"""The bfloat16 sieve: never another answer than the exact one, and open only where it must be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from serkd.units.nearest import Nearest


def _draw(seed: int, num_frames: int, dim: int, spread: float, offset: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = spread * rng.standard_normal((9, dim))
    frames = centres[rng.integers(9, size=num_frames)] + rng.standard_normal((num_frames, dim))
    # a few channels far from zero, as hidden states have
    frames[:, :2] += offset
    return frames.astype(np.float16)


def _check_is_nearest(frames: np.ndarray, centroids: np.ndarray, ids: np.ndarray) -> None:
    exact = cdist(frames.astype(np.float64), centroids.astype(np.float64), "sqeuclidean")
    found = exact[np.arange(len(frames)), ids]
    # what float32 cannot tell apart may go either way
    assert (found - exact.min(axis=1) <= 1e-5 * np.square(frames.astype(np.float64)).sum(1)).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dim=st.sampled_from([3, 16, 100]),
    num_clusters=st.integers(2, 60),
    spread=st.sampled_from([0.0, 0.5, 3.0]),
    offset=st.sampled_from([0.0, 40.0, -300.0]),
)
def test_the_sieve_gives_the_nearest_centroid(
    seed: int, dim: int, num_clusters: int, spread: float, offset: float
) -> None:
    frames = _draw(seed, 300, dim, spread, offset)
    centroids = frames[:num_clusters].astype(np.float32) + 0.01
    _check_is_nearest(frames, centroids, Nearest(centroids, use_sieve=True).assign(frames))


def test_with_and_without_the_sieve_answers_are_the_same() -> None:
    frames = _draw(0, 10_000, 64, 1.0, 20.0)
    rng = np.random.default_rng(0)
    centroids = frames[rng.choice(len(frames), 50, replace=False)].astype(np.float32)
    sieved = Nearest(centroids, use_sieve=True)
    plain = Nearest(centroids, use_sieve=False).assign(frames)
    assert np.array_equal(sieved.assign(frames), plain)
    assert sieved.sieve is not None
    ids, is_open = sieved.sieve.pass_through(frames)
    assert 0.0 < is_open.mean() < 0.5  # it does something, and leaves something
    assert np.array_equal(ids[~is_open], plain[~is_open])


def test_frames_between_two_centroids_stay_open() -> None:
    centroids = 5.0 * np.eye(20, dtype=np.float32)
    between = (centroids[:-1] + centroids[1:]) / 2.0
    sieve = Nearest(centroids, use_sieve=True).sieve
    assert sieve is not None
    assert sieve.pass_through(between.astype(np.float16))[1].all()


@pytest.mark.parametrize("count", [0, 1, 4_096, 4_097])
@pytest.mark.parametrize("use_sieve", [True, False])
def test_any_number_of_frames(count: int, use_sieve: bool) -> None:
    frames = _draw(1, max(count, 20), 12, 2.0, 0.0)
    nearest = Nearest(frames[:20].astype(np.float32), use_sieve=use_sieve)
    ids = nearest.assign(frames[:count])
    assert ids.shape == (count,)
    _check_is_nearest(frames[:count], frames[:20].astype(np.float32), ids)


def test_frames_that_are_not_finite_are_left_to_the_exact_search() -> None:
    frames = _draw(2, 100, 12, 2.0, 0.0)
    frames[7, 3] = np.inf
    frames[8, 3] = np.nan
    sieve = Nearest(frames[10:40].astype(np.float32), use_sieve=True).sieve
    assert sieve is not None
    assert sieve.pass_through(frames)[1][[7, 8]].all()
