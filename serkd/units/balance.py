"""Clusters of about equal size.

Each cluster has a price that is added to squared distances. For any centroids there are prices
that make all clusters the same size, and then inertia is the least of all partitions into such
sizes (Aurenhammer, Hoffmann & Aronov, Algorithmica 1998). Here prices follow the counts of each
pass while centroids move: balance is sought little by little, as by de Maeyer, Sieranoja & Fränti
("Balanced k-means revisited", 2023), and not enforced.
"""

import math
from dataclasses import replace

import numpy as np

from serkd.units.nearest import Codebook
from serkd.units.scale import Fitted, Scale, find_means, halve
from serkd.units.sums import Sums

# The change of a price for a count e times too large, in mean squared distances of a frame.
_FIRST_STEP, _LEAST_STEP, _LARGEST_STEP = 0.01, 1e-5, 0.1
_FASTER, _SLOWER = 1.5, 0.5
# Prices further apart, in the same measure, would put frames together that are far from each
# other: where data have separate groups of unequal sizes, they keep some of the inequality.
_MOST_APART = 0.5
_SMALL, _LARGE = 0.5, 1.5  # in equal shares: the one may take half of the other
_EVEN = 0.1  # no count is further from an equal share when a fit ends


class Prices:
    """Prices (K,) that follow the counts of clusters until these are about equal.

    Counts do not say how fast they follow a price, so each price has a step of its own, which grows
    while its count stays on one side of an equal share and shrinks when it has changed sides
    (Riedmiller & Braun's Rprop, ICNN 1993, with the count's logarithm in place of a sign).
    """

    def __init__(self, start: Codebook) -> None:
        size = len(start.centroids)
        given = np.zeros(size) if start.prices is None else start.prices
        self.values = given.astype(np.float32)
        self.steps = np.full(size, _FIRST_STEP)
        self.excess = np.zeros(size)

    def follow(self, counts: np.ndarray, shared: np.ndarray, scale: float) -> None:
        """Move prices after a pass with `counts` (K,) and `scale`, the mean squared distance.

        `shared` (S, 2) are pairs of clusters, the first of which now has half of the second; their
        counts say nothing any more, and both begin at the price of the second.
        """
        excess = np.clip(np.log((counts + 1.0) / (counts.mean() + 1.0)), -1.0, 1.0)
        agreement = excess * self.excess
        factors = np.where(agreement > 0.0, _FASTER, np.where(agreement < 0.0, _SLOWER, 1.0))
        self.steps = np.clip(self.steps * factors, _LEAST_STEP, _LARGEST_STEP)
        prices = self.values.astype(np.float64)
        prices[shared[:, 0]] = prices[shared[:, 1]]
        self.steps[shared], excess[shared] = _FIRST_STEP, 0.0
        self.excess = excess
        prices += scale * self.steps * excess
        reach = 0.5 * _MOST_APART * scale
        prices = np.clip(prices - np.median(prices), -reach, reach)
        self.values = (prices - prices.min()).astype(np.float32)


class BalancedScale(Scale):
    """The state of one scale's fit that also moves prices, and clusters to where frames are many.

    Prices alone would drag the clusters of rare frames through all others to where they are needed.
    """

    def __init__(self, start: Codebook, rng: np.random.Generator) -> None:
        super().__init__(start, rng)
        self.prices = Prices(start)
        self.shared = np.zeros((0, 2), np.int64)  # who took half of whom in the pass before
        self.is_whole = np.zeros(len(self.centroids), bool)  # equal frames, which none can share
        self.best = math.inf, super().result()

    @property
    def book(self) -> Codebook:
        return Codebook(self.centroids, self.prices.values)

    def step(self, total: Sums, squares: float, tolerance: float) -> None:
        """Note what these centroids and prices give, keep the evenest, and move them all."""
        self.note(total, squares)
        share = float(self.counts.mean())
        if len(self.history) > 1:
            change = abs(self.history[-2] - self.history[-1])  # inertia may rise
            is_even = bool((np.abs(self.counts - share) <= _EVEN * share).all())
            self.is_done = is_even and change <= tolerance * self.history[-2]
        spread = float(self.counts.std())
        if self.is_done or spread < self.best[0]:
            self.best = spread, replace(super().result(), prices=self.prices.values)
        self._move(total, share)

    def _move(self, total: Sums, share: float) -> None:
        """To the means; but small clusters, and all empty ones, take half of a large one each."""
        has_failed = (self.counts[self.shared] == 0).any(axis=1)
        self.is_whole[self.shared[has_failed]] = True
        order = np.argsort(self.counts, kind="stable")
        donors = order[::-1][~self.is_whole[order[::-1]]]
        takers = order[: len(donors)]
        few, many = self.counts[takers], self.counts[donors]
        may = ((few < _SMALL * share) & (many > _LARGE * share)) | ((few == 0) & (many > 1))
        self.shared = np.column_stack([takers, donors])[may]
        centroids = find_means(self.centroids, total)
        for taker, donor in self.shared:
            halve(centroids, taker, donor)
        self.centroids = centroids.astype(np.float32)
        self.prices.follow(self.counts, self.shared, self.history[-1] / float(self.counts.sum()))

    def result(self) -> Fitted:
        return self.best[1]
