"""The lesson: a teacher learns from what a pilot student, taught by it, does on a quiz."""

import logging
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from serkd import config
from serkd.distill.meta import (
    HYPERGRADIENTS,
    Parameters,
    QuizLoss,
    compute_norm,
    share_step,
)
from serkd.distill.quiz import choose_quiz
from serkd.train.checkpoint import join_parts, take_part
from serkd.train.data import FoldData
from serkd.train.moving import MovingTeacher, Says
from serkd.train.stored_teacher import StoredTeacher
from serkd.train.task import Step
from serkd.train.workers import Workers

COLLAPSE = 0.1  # of dev UAR, absolute: several times what chance moves it by on a dev split
_LEAST = COLLAPSE / 4  # of a teacher that is little better than chance
_QUIZ_DRAW = 1

logger = logging.getLogger(__name__)

TaughtLoss = Callable[[Says, Parameters], Tensor]  # what a student learns from a teacher's outputs


class Lesson:
    """A moving teacher and the quiz from which it learns (MetaDistil, algorithm 1).

    (1 - rho) of its step descends the pilot's quiz loss, rho its own cross-entropy on the batch.
    """

    def __init__(
        self,
        data: FoldData,
        teacher: StoredTeacher,
        settings: config.Meta,
        seed: int,
        device: torch.device,
    ) -> None:
        self.data, self.settings, self.num_steps = data, settings, 0
        self.teacher: MovingTeacher = teacher.build(
            data.utt_ids, settings.teacher_lr, device, data.train
        )
        speakers = [data.manifest.by_id[utt_id].speaker_id for utt_id in data.train_ids]
        self.quiz = choose_quiz(speakers, data.train_labels, settings.quiz_share, seed)
        if (share := float(self.quiz.mean())) > 2 * settings.quiz_share:
            logger.warning(
                "the quiz has %.0f %% of train, meta.quiz_share asks for %.0f %%: speakers are "
                "whole, and every class must be asked; the student does not learn from them",
                100 * share,
                100 * settings.quiz_share,
            )
        self.start_dev_uar = self._dev_uar(teacher.outputs.select(data.dev_ids).logits)

    def count_step(self) -> bool:
        """Count a step of the student, over all epochs; whether the teacher learns before it."""
        is_due = self.num_steps % self.settings.every_steps == 0
        self.num_steps += 1
        return is_due

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs."""
        return join_parts(
            moving=self.teacher.state(), counted={"steps": torch.tensor(self.num_steps)}
        )

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        self.teacher.load_state(take_part(tensors, "moving"))
        self.num_steps = int(take_part(tensors, "counted")["steps"])

    def draw_quiz(self, count: int, step: Step) -> np.ndarray:
        """Random utterances of the quiz, (count,), whatever else is random."""
        rng = np.random.default_rng((step.seed, step.epoch, step.number, 0, _QUIZ_DRAW))
        return rng.choice(np.flatnonzero(self.quiz), count)

    def take_step(
        self,
        student: Parameters,
        loss: TaughtLoss,
        quiz: QuizLoss,
        index: np.ndarray,
        labels: Tensor,
        stretch: Tensor,
    ) -> dict[str, float]:
        """The teacher's step for a batch of utterances (B,) and `labels` (B,); scalars to log.

        It hears the same `stretch` (B, 2) of them as the pilot, from which share to which.
        """
        says = Says(*(output.requires_grad_() for output in self.teacher.read(index, stretch)))
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no double backward
            parts, quiz_loss = HYPERGRADIENTS[self.settings.order](
                student, says, partial(loss, says), quiz, self.settings.pilot_lr
            )
        gradient = self.teacher.pull_back(index, parts, stretch)
        scalars = {
            "meta/quiz_loss": quiz_loss,
            "meta/hypergradient_norm": float(compute_norm(gradient)),
        }
        if rho := self.settings.rho:
            own_loss = F.cross_entropy(says.logits, labels)
            (own,) = torch.autograd.grad(own_loss, says.logits)
            own_parts = self.teacher.pull_back(
                index, [own, torch.zeros_like(says.embedding)], stretch
            )
            gradient = share_step(gradient, own_parts, rho)
            scalars["meta/teacher_loss"] = float(own_loss.detach())
        self.teacher.descend(gradient)
        return {**scalars, "meta/teacher_drift": self.teacher.drift()}

    def evaluate(self) -> dict[str, float]:
        """The teacher's own dev UAR, with a warning when it has collapsed.

        It has when it lost `COLLAPSE`, or half of what it was better than chance by.
        """
        value = self._dev_uar(self.teacher.predict(self.data.dev_index))
        lead = self.start_dev_uar - 1 / self.data.num_classes
        if value < self.start_dev_uar - min(COLLAPSE, max(lead / 2, _LEAST)):
            logger.warning(
                "the teacher that learns from the quiz has collapsed: its dev UAR is %.3f, it "
                "began at %.3f; lower meta.teacher_lr or raise meta.rho",
                value,
                self.start_dev_uar,
            )
        return {"teacher_dev_uar": value}

    def _dev_uar(self, logits: np.ndarray) -> float:
        return self.data.dev_metrics(logits, self.data.dev_index, Workers())["dev_uar"]
