"""The quiz split: what the pilot student is asked, and no student is trained on."""

from collections.abc import Sequence

import numpy as np

from serkd.errors import InputError


def choose_quiz(speakers: Sequence[str], labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which training utterances (U,) bool form the quiz: whole speakers, `share` of all or more.

    Speakers are added in random order until it is reached, skipping any without whom a class would
    be lost from training, or who would make it more than half as large again as `share`. Where it
    is not reached so, the smallest of those follow, as long as training keeps half of what `share`
    would leave to it: with few or unequal speakers the quiz is larger, or smaller. Then, up to half
    of all, the smallest come in who have a class that the quiz lacks.

    Raises:
        InputError: no speaker can be spared.
    """
    quiz = np.zeros(len(labels), bool)
    names = np.asarray(speakers)
    order = np.random.default_rng(seed).permutation(np.unique(names))
    by_size = sorted(order, key=lambda speaker: np.count_nonzero(names == speaker))
    most = (1 + share) / 2

    def leaves_every_class(asked: np.ndarray) -> bool:
        return len(np.unique(labels[~asked])) == len(np.unique(labels))

    for speakers_in_order, limit in ((order, min(1.5 * share, most)), (by_size, most)):
        for speaker in speakers_in_order:
            if quiz.mean() >= share:
                break
            asked = quiz | (names == speaker)
            if asked.mean() <= limit and leaves_every_class(asked):
                quiz = asked
    if not quiz.any():
        raise InputError(
            f"meta.quiz_share must leave training every emotion, but with {share} of whole "
            "speakers no speaker can be spared: each is the only one with some emotion, or has "
            "most utterances"
        )
    for speaker in by_size:
        asked = quiz | (names == speaker)
        is_new = len(np.unique(labels[asked])) > len(np.unique(labels[quiz]))
        if is_new and asked.mean() <= 0.5 and leaves_every_class(asked):
            quiz = asked
    return quiz
