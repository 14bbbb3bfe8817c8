"""The student's task: contrastive and cross-entropy, distillation, curriculum, meta-knowledge."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from serkd import config
from serkd.distill.curriculum import compute_share, rank_within_class, score_difficulty
from serkd.distill.meta import HYPERGRADIENTS, MetaHead, Parameters, choose_quiz
from serkd.distill.objective import student_terms
from serkd.losses.logits import distillation
from serkd.losses.terms import Term
from serkd.models.heads import CosineClassifier
from serkd.models.student import Student, build_student
from serkd.train.batches import mask_logmel, pad_frames
from serkd.train.data import FoldData
from serkd.train.loop import Step, Task, seed_torch
from serkd.train.outputs import Outputs, forward_pair, predict, read_outputs
from serkd.train.workers import Workers


@dataclass(frozen=True)
class StoredTeacher:
    """A teacher's outputs, and its head: `weights` of the classifier, scale None for a Linear."""

    outputs: Outputs
    weights: dict[str, Tensor]
    scale: float | None

    def build_head(self, lr: float) -> MetaHead:
        """The head as a module that can learn."""
        num_classes, width = self.weights["weight"].shape
        is_linear = self.scale is None
        head = nn.Linear(width, num_classes) if is_linear else CosineClassifier(width, num_classes)
        head.load_state_dict(self.weights)
        return MetaHead(head, 1.0 if self.scale is None else self.scale, lr)


def read_teacher(folder: Path) -> StoredTeacher:
    """Read what the stage teacher_outputs wrote."""
    model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    outputs = read_outputs(folder / "outputs.parquet")
    return StoredTeacher(outputs, load_file(folder / "head.safetensors"), model["scale"])


class StudentTask(Task):
    """Trains a student on log-mel, with a teacher's stored outputs where there is a teacher."""

    name = "student"
    selection = "dev_uar"

    def __init__(
        self,
        data: FoldData,
        teacher: StoredTeacher | None,
        settings: config.Student,
        distill: config.Distill,
        curriculum: config.Curriculum,
        meta: config.Meta,
        seed: int,
        device: str,
    ) -> None:
        self.data, self.settings, self.distill = data, settings, distill
        self.fit, self.seed, self.device = settings.fit, seed, torch.device(device)
        self.curriculum, self.meta = curriculum, meta
        self.teacher = None if teacher is None else teacher.outputs.select(data.train_ids)
        self.head: MetaHead | None = None
        seed_torch(seed)
        self.model: Student = build_student(settings, data.num_classes)
        self.model.to(self.device)
        num_frames = int(self.lengths.sum())  # training utterances come first
        frames = torch.from_numpy(data.frames.values[:num_frames].astype(np.float32))
        self.model.standardise.fit(frames)
        self.quiz = np.zeros(len(data.train_ids), bool)
        if meta.order != "off":
            assert teacher is not None
            self.head = teacher.build_head(meta.teacher_lr).to(self.device)
            speakers = [data.manifest.by_id[utt_id].speaker_id for utt_id in data.train_ids]
            self.quiz = choose_quiz(speakers, self.train_labels, meta.quiz_share, seed)
        self.position = self._positions()

    @property
    def lengths(self) -> np.ndarray:
        return self.data.train_lengths

    @property
    def train_labels(self) -> np.ndarray:
        """Classes of the training utterances, (U,)."""
        return self.data.labels[: len(self.data.train_ids)]

    def _positions(self) -> np.ndarray:
        """Where each training utterance stands in its class; beyond 1 for the quiz's."""
        position = np.where(self.quiz, 2.0, 0.0)
        if self.curriculum.pacing == "none" or self.teacher is None:
            return position
        labels, learned = self.train_labels, ~self.quiz
        scores = score_difficulty(self.curriculum.scorer, self.teacher.logits, labels)
        control = self.curriculum.control
        position[learned] = rank_within_class(scores[learned], labels[learned], control, self.seed)
        return position

    def active(self, epoch: int) -> np.ndarray:
        share = compute_share(self.curriculum, epoch / self.fit.epochs)
        return np.flatnonzero(self.position < share)

    def parameter_groups(self) -> Sequence[tuple[str, nn.Module | nn.Parameter, float]]:
        return [("student", self.model, self.fit.lr)]

    def extra_state(self) -> dict[str, Tensor]:
        return {} if self.head is None else self.head.state_dict()

    def load_extra_state(self, tensors: dict[str, Tensor]) -> None:
        if self.head is not None:
            self.head.load_state_dict(tensors)

    def terms(self, index: np.ndarray, step: Step) -> dict[str, Term]:
        logmel, mask = pad_frames(self.data.frames, index)
        augment = self.settings.augment
        bands = [
            (1, augment.time_masks, augment.time_mask_frames),
            (2, augment.mel_masks, augment.mel_mask_bins),
        ]
        # the channels' means are what standardising turns into 0
        logmel = mask_logmel(logmel, mask, bands, self.model.standardise.mean.cpu())
        output = self.model(logmel.to(self.device), mask.to(self.device))
        labels = self._labels(index)
        projections, offset = step.workers.gather(output.projection, step.global_size)
        all_labels, _ = step.workers.gather(labels, step.global_size)
        teacher_logits = self._teacher_logits(index)
        return student_terms(
            output,
            labels,
            self.distill,
            teacher_logits=None if teacher_logits is None else teacher_logits.detach(),
            keys=(projections, all_labels, offset),
        )

    def _labels(self, index: np.ndarray) -> Tensor:
        return torch.from_numpy(self.data.labels[index]).to(self.device)

    def _teacher_logits(self, index: np.ndarray) -> Tensor | None:
        """Stored ones, or the live head's while it learns."""
        if self.teacher is None:
            return None
        if self.head is None:
            return torch.from_numpy(self.teacher.logits[index]).to(self.device)
        return self.head(torch.from_numpy(self.teacher.embedding[index]).to(self.device))

    def before_step(self, index: np.ndarray, step: Step) -> dict[str, float]:
        """The teacher's step: its head descends the quiz loss of a pilot student."""
        if self.head is None or step.number % self.meta.every_steps:
            return {}
        drawn = torch.randint(int(self.quiz.sum()), (len(index),)).numpy()
        quiz_index = np.flatnonzero(self.quiz)[drawn]
        self.model.eval()  # no dropout: both gradients must see the same function
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no double backward
            gradient, quiz_loss = HYPERGRADIENTS[self.meta.order](
                dict(self.model.named_parameters()),
                self.head.weights(),
                partial(self._pilot_loss, *self._inputs(index), index),
                partial(self._quiz_loss, *self._inputs(quiz_index), quiz_index),
                self.meta.pilot_lr,
            )
        self.model.train()
        self.head.take_step(gradient)
        return {"meta/quiz_loss": quiz_loss, "meta/teacher_drift": self.head.drift()}

    def _inputs(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        logmel, mask = pad_frames(self.data.frames, index)
        return logmel.to(self.device), mask.to(self.device)

    def _pilot_loss(
        self, logmel: Tensor, mask: Tensor, index: np.ndarray, student: Parameters
    ) -> Tensor:
        output = functional_call(self.model, student, (logmel, mask))
        teacher_logits = self._teacher_logits(index)
        assert teacher_logits is not None
        kd = distillation(output.logits, teacher_logits, self.distill.temperature)
        ce = F.cross_entropy(output.logits, self._labels(index))
        return (1 - self.distill.alpha) * ce + self.distill.alpha * kd.total / kd.count

    def _quiz_loss(
        self, logmel: Tensor, mask: Tensor, index: np.ndarray, student: Parameters
    ) -> Tensor:
        output = functional_call(self.model, student, (logmel, mask))
        return F.cross_entropy(output.logits, self._labels(index))

    def evaluate(self, workers: Workers) -> dict[str, float]:
        self.model.eval()
        index = workers.share(self.data.dev_index)
        logits, _ = predict(forward_pair(self.model), self.data.frames, index, self.device)
        return self.data.dev_metrics(logits, index, workers)
