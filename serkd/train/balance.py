"""Class-balanced batches: as many of every class in each, rare classes drawn again."""

import numpy as np


def draw_balanced(
    lengths: np.ndarray,
    labels: np.ndarray,
    active: np.ndarray,
    num_batches: int,
    batch_size: int,
    pool_batches: int,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """`num_batches` batches of `batch_size` of the `active` utterances, the shorter ones first.

    `lengths` and `labels` (U,) are frames and class of each utterance. The classes that occur have
    the same number in every batch, to within one; what a batch cannot divide is dealt in turn, so
    that an epoch too has the same number of all, to within one. An utterance is drawn again only
    after all of its class. Within `pool_batches` batches for each class, those of similar length
    meet, and none is twice in a batch that wants no more of its class than there are.
    """
    size = min(batch_size, len(active))
    ranks = np.argsort(np.lexsort((rng.random(len(lengths)), lengths)))  # of equals, any order
    classes = rng.permutation(np.unique(labels[active]))
    turns = np.arange(num_batches * size) % len(classes)
    counts = [np.bincount(turn, minlength=len(classes)) for turn in np.split(turns, num_batches)]
    draws = [_Draws(active[labels[active] == label], rng) for label in classes]
    batches: list[np.ndarray] = []
    pool = pool_batches * len(classes)  # so that a class sorts as many as all would together
    for start in range(0, num_batches, pool):
        wanted = np.stack(counts[start : start + pool])  # (batches of the pool, classes)
        dealt = [
            _deal(_sort(draw.take(int(wanted[:, c].sum())), ranks), wanted[:, c])
            for c, draw in enumerate(draws)
        ]
        batches += [_sort(np.concatenate(parts), ranks) for parts in zip(*dealt, strict=True)]
    return batches


class _Draws:
    """Utterances of a class in random order, all of them before any comes again."""

    def __init__(self, members: np.ndarray, rng: np.random.Generator) -> None:
        self.members, self.rng = members, rng
        self.waiting = rng.permutation(members)

    def take(self, count: int) -> np.ndarray:
        """The next `count`; no utterance more than ceil(count / members) times."""
        taken = [self.waiting[:count]]
        self.waiting, missing = self.waiting[count:], count - len(taken[0])
        while missing > 0:
            again = self.rng.permutation(self.members)
            # those that this call began with come last
            again = again[np.argsort(np.isin(again, taken[0]), kind="stable")]
            taken.append(again[:missing])
            self.waiting, missing = again[missing:], missing - len(taken[-1])
        return np.concatenate(taken)


def _sort(index: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Lowest rank first, an utterance's copies side by side."""
    return index[np.argsort(ranks[index], kind="stable")]


def _deal(ordered: np.ndarray, wanted: np.ndarray) -> list[np.ndarray]:
    """An utterance's copies lie side by side in `ordered`; batch b gets `wanted[b]` utterances.

    Copies go to different batches: `wanted` differs by at most one, and groups of as many batches
    as there are copies are dealt to in turn.
    """
    copies = int(np.unique(ordered, return_counts=True)[1].max(initial=1))
    groups = np.array_split(np.arange(len(wanted)), max(1, len(wanted) // copies))
    dealt: list[np.ndarray] = []
    start = 0
    for group in groups:
        share = ordered[start : start + int(wanted[group].sum())]
        start += len(share)
        # whoever gets one more is dealt to first, and last in every round: never twice in one
        turns = np.argsort(wanted[group], kind="stable")
        num_fewer = int((wanted[group] < wanted[group].max()).sum())
        owners = np.resize(turns, num_fewer + len(share))[num_fewer:]
        dealt += [share[owners == batch] for batch in range(len(group))]
    return dealt
