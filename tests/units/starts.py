"""Starts of frames in memory, for tests."""

import numpy as np

from serkd.units.actors import Clustering


def seed_centroids(frames: np.ndarray, num_clusters: int, seed: int) -> np.ndarray:
    """Where a fit of frames (N, D) float16 starts: (K, D)."""
    clustering = Clustering()
    clustering.hold([frames])
    return clustering._start(num_clusters, seed)
