"""The student's task: supervised contrastive and cross-entropy, distillation, data curriculum."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from serkd import config
from serkd.distill.curriculum import compute_share, rank_within_class, score_difficulty
from serkd.distill.objective import student_terms
from serkd.losses.terms import Term
from serkd.models.student import build_student
from serkd.train.batches import mask_logmel, pad_frames
from serkd.train.data import FoldData
from serkd.train.loop import Step, Task, seed_torch
from serkd.train.outputs import Outputs, forward_pair, predict
from serkd.train.workers import Workers


class StudentTask(Task):
    """Trains a student on log-mel, with a teacher's stored logits where there is a teacher."""

    name = "student"
    selection = "dev_uar"

    def __init__(
        self,
        data: FoldData,
        teacher: Outputs | None,
        settings: config.Student,
        distill: config.Distill,
        curriculum: config.Curriculum,
        seed: int,
        device: str,
    ) -> None:
        self.data, self.settings, self.distill = data, settings, distill
        self.fit, self.seed, self.device = settings.fit, seed, torch.device(device)
        self.curriculum = curriculum
        self.teacher = None if teacher is None else teacher.select(data.train_ids)
        seed_torch(seed)
        self.model = build_student(settings, data.num_classes).to(self.device)
        self.model.set_statistics(*self._statistics())
        self.position = self._positions()

    @property
    def lengths(self) -> np.ndarray:
        return self.data.train_lengths

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Per mel channel, over the training utterances' frames only."""
        num_frames = int(self.lengths.sum())
        values = self.data.frames.values[:num_frames].astype(np.float64)
        deviation = np.maximum(values.std(axis=0), 1e-3)
        return torch.from_numpy(values.mean(axis=0)), torch.from_numpy(deviation)

    def _positions(self) -> np.ndarray:
        labels = self.data.labels[: len(self.data.train_ids)]
        if self.curriculum.pacing == "none" or self.teacher is None:
            return np.zeros(len(labels))
        scores = score_difficulty(self.curriculum.scorer, self.teacher.logits, labels)
        return rank_within_class(scores, labels, self.curriculum.control, self.seed)

    def active(self, epoch: int) -> np.ndarray:
        share = compute_share(self.curriculum, epoch / self.fit.epochs)
        return np.flatnonzero(self.position < share)

    def parameter_groups(self) -> Sequence[tuple[str, nn.Module | nn.Parameter, float]]:
        return [("student", self.model, self.fit.lr)]

    def terms(self, index: np.ndarray, step: Step) -> dict[str, Term]:
        logmel, mask = pad_frames(self.data.frames, index)
        augment = self.settings.augment
        bands = [
            (1, augment.time_masks, augment.time_mask_frames),
            (2, augment.mel_masks, augment.mel_mask_bins),
        ]
        logmel = mask_logmel(logmel, mask, bands)
        output = self.model(logmel.to(self.device), mask.to(self.device))
        labels = torch.from_numpy(self.data.labels[index]).to(self.device)
        projections, offset = step.workers.gather(output.projection, step.global_size)
        all_labels, _ = step.workers.gather(labels, step.global_size)
        return student_terms(
            output,
            labels,
            self.distill,
            teacher_logits=self._teacher_logits(index),
            keys=(projections, all_labels, offset),
        )

    def _teacher_logits(self, index: np.ndarray) -> Tensor | None:
        if self.teacher is None:
            return None
        return torch.from_numpy(self.teacher.logits[index]).to(self.device)

    def evaluate(self, workers: Workers) -> dict[str, float]:
        self.model.eval()
        index = workers.share(self.data.dev_index)
        logits, _ = predict(forward_pair(self.model), self.data.frames, index, self.device)
        return self.data.dev_metrics(logits, index, workers)
