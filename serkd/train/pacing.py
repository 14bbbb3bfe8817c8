"""Which training utterances an epoch of a student uses."""

from collections.abc import Callable

import numpy as np

from serkd import config
from serkd.corpora.composition import label_votes
from serkd.corpora.manifest import Manifest
from serkd.distill.curriculum import (
    rank_within_class,
    score_difficulty,
    score_disagreement,
    score_divergence,
)
from serkd.train.data import FoldData


def score_votes(manifest: Manifest, utt_ids: tuple[str, ...]) -> np.ndarray:
    """Disagreement (U,) of the annotators, whose categories get the classes' names."""
    found = [label_votes(manifest.by_id[utt_id], manifest.class_names) for utt_id in utt_ids]
    return score_disagreement(found)


class DataCurriculum:
    """The easiest (or hardest, or any) share of each class, which grows.

    `is_learned` (U,) leaves out the quiz; `teacher_logits` (U, C) may be None where a teacher has
    no say in what is difficult.
    """

    def __init__(
        self,
        settings: config.Curriculum,
        data: FoldData,
        is_learned: np.ndarray,
        teacher_logits: np.ndarray | None,
        seed: int,
    ) -> None:
        self.settings, self.data, self.seed = settings, data, seed
        self.learned, self.teacher_logits = np.flatnonzero(is_learned), teacher_logits
        self.position = np.zeros(len(self.learned))
        if settings.is_paced and not self.is_self_paced:
            self.position = self._rank(self._score())

    @property
    def is_self_paced(self) -> bool:
        """Whether difficulty changes with the student."""
        return self.settings.scorer == "student_teacher_kl" and self.settings.ranks

    def active(
        self, share: float, ask_both: Callable[[], tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        """Utterances in use when a `share` of each class is.

        `ask_both` gives the student's and the teacher's logits (U, C) on train, as they are now.
        """
        if share >= 1.0:
            return self.learned
        if self.is_self_paced:
            student, teacher = ask_both()
            self.position = self._rank(score_divergence(teacher, student))
        return self.learned[self.position < share]

    def _score(self) -> np.ndarray:
        """Difficulty of every training utterance, (U,)."""
        scorer, labels = self.settings.scorer, self.data.train_labels
        if not self.settings.ranks:
            return np.zeros(len(labels))
        if scorer == "random":  # apart from the lots that break ties
            return np.random.default_rng((self.seed, 1)).random(len(labels))
        if scorer == "annotator_disagreement":
            return score_votes(self.data.manifest, self.data.train_ids)
        assert self.teacher_logits is not None
        return score_difficulty(scorer, self.teacher_logits, labels)

    def _rank(self, difficulty: np.ndarray) -> np.ndarray:
        """Where each learned utterance stands in its class, in [0, 1)."""
        labels, control = self.data.train_labels[self.learned], self.settings.control
        return rank_within_class(difficulty[self.learned], labels, control, self.seed)
