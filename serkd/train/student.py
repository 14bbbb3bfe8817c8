"""The student's task: contrastive and cross-entropy, distillation, curriculum, meta-knowledge."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from serkd import config
from serkd.devices import choose_device, choose_precision
from serkd.distill.curriculum import compute_epoch_share
from serkd.distill.meta import Parameters
from serkd.distill.objective import Target, student_terms
from serkd.losses.logits import Temperature
from serkd.losses.terms import Term
from serkd.models.student import Student, StudentOutput, build_student
from serkd.train.checkpoint import join_parts, take_part
from serkd.train.data import FoldData
from serkd.train.guidance import Guidance
from serkd.train.meta import Lesson
from serkd.train.moving import Says
from serkd.train.outputs import Outputs, forward_pair, predict
from serkd.train.pacing import DataCurriculum
from serkd.train.source import MemorySource, Padded
from serkd.train.spectra import Augmented, augment_logmel
from serkd.train.stored_teacher import StoredTeacher
from serkd.train.task import Step, Task, seed_torch
from serkd.train.workers import Workers

logger = logging.getLogger(__name__)


class StudentTask(Task):
    """Trains a student on log-mel or hidden states.

    `teacher` has its outputs as stored, where there is one. `unseen` are outputs of teachers that
    were trained without the utterance's speaker: where they are given, they score difficulty.
    """

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
        unseen: Outputs | None = None,
    ) -> None:
        self.data, self.settings, self.distill = data, settings, distill
        self.fit, self.seed, self.device = settings.fit, seed, torch.device(choose_device(device))
        self.precision = choose_precision(settings.precision, self.device, self.name)
        # its frames are few, and the quiz is drawn from all of it; batches are whole, since the
        # contrastive loss compares all of one
        self.source = MemorySource(data.frames)
        self.teacher = None if teacher is None else teacher.outputs.select(data.train_ids)
        seed_torch(seed)
        self.model: Student = build_student(settings, data.num_classes, data.frames.values.shape[1])
        self.model.to(self.device)
        num_frames = int(self.lengths.sum())  # training utterances come first
        frames = torch.from_numpy(data.frames.values[:num_frames].astype(np.float32))
        self.model.standardise.fit(frames)
        # after the student, whose random start must not depend on it
        self.guidance = Guidance(
            distill,
            curriculum,
            data.num_classes,
            self.model.classifier.in_features,
            None if self.teacher is None else self.teacher.embedding.shape[1],
        ).to(self.device)
        self.hint_knee = distill.choose_knee(is_live=meta.has_live_layers)
        self.lesson: Lesson | None = None
        if meta.order != "off":
            assert teacher is not None
            self.lesson = Lesson(data, teacher, meta, seed, self.device)
        self.is_scored_unseen = unseen is not None
        if curriculum.is_paced and self.fit.epochs == 1:
            logger.warning(
                "%s: curriculum.pacing has no effect in one epoch: the last one has all data",
                self.name,
            )
        if curriculum.scores_by_teacher and unseen is None and distill.teacher == "trained":
            logger.warning(
                "%s: what is difficult is said by a teacher that has learned from these "
                "utterances, to whom most are easy; teacher.inner_folds asks teachers who have not",
                self.name,
            )
        scorer = self.teacher if unseen is None else unseen.select(data.train_ids)
        scores = None if scorer is None else scorer.logits
        self.pace = DataCurriculum(curriculum, data, ~self.quiz, scores, seed)

    @property
    def lengths(self) -> np.ndarray:
        return self.data.train_lengths

    @property
    def train_labels(self) -> np.ndarray:
        return self.data.train_labels

    @property
    def quiz(self) -> np.ndarray:
        """Which training utterances (U,) bool are kept aside for the teacher's lesson."""
        return np.zeros(len(self.lengths), bool) if self.lesson is None else self.lesson.quiz

    def active(self, epoch: int) -> np.ndarray:
        share = compute_epoch_share(self.pace.settings, epoch, self.fit.epochs)
        return self.pace.active(share, self._ask_both)

    @property
    def num_learned(self) -> int:
        return len(self.pace.learned)

    def _ask_both(self) -> tuple[np.ndarray, np.ndarray]:
        """The student's logits (U, C) on train, and those of the teacher that scores, as of now."""
        scores = self.pace.teacher_logits
        if self.lesson is not None and not self.is_scored_unseen:
            scores = self.lesson.teacher.predict(np.arange(len(self.lengths)))
        assert scores is not None
        return self._ask_student(), scores

    def _ask_student(self) -> np.ndarray:
        """Its logits (U, C) on train; workers ask it of a share each, and tell each other."""
        was_training, workers = self.model.training, Workers()
        self.model.eval()
        index = workers.share(np.arange(len(self.lengths)))
        logits, _ = predict(forward_pair(self.model), self.source, index, self.device)
        self.model.train(was_training)
        shares, parts = zip(*workers.collect((index, logits)), strict=True)
        return np.concatenate(parts)[np.argsort(np.concatenate(shares))]

    def parameter_groups(self) -> Sequence[tuple[str, nn.Module | nn.Parameter, float]]:
        return [("student", self.model, self.fit.lr), *self.guidance.groups(self.fit.lr)]

    def rate_factors(self, progress: float) -> dict[str, float]:
        return self.guidance.rate_factors(progress)

    def extra_state(self) -> dict[str, Tensor]:
        lesson = {} if self.lesson is None else self.lesson.state()
        return join_parts(guidance=self.guidance.state_dict(), lesson=lesson)

    def load_extra_state(self, tensors: dict[str, Tensor]) -> None:
        self.guidance.load_state_dict(take_part(tensors, "guidance"))
        if self.lesson is not None:
            self.lesson.load_state(take_part(tensors, "lesson"))

    def counts(self, index: np.ndarray, step: Step) -> dict[str, float]:
        views = self.distill.supcon_views
        labels, everyone = self.data.labels[index], self.data.labels[step.batch]
        has_positive = views * np.bincount(everyone)[labels] > 1
        rows = dict.fromkeys(self.guidance.weights(step.progress), len(index))
        if "supcon" in rows:
            rows["supcon"] = int(has_positive.sum())
        return {name: float(views * count) for name, count in rows.items()}

    def terms(self, index: np.ndarray, batch: Padded, step: Step) -> dict[str, Term]:
        given = self._augment(index, batch, step)
        output = self.model(given.logmel, given.mask)
        # softened logits differ by little, of which half precision would lose a good part
        with torch.autocast(self.device.type, enabled=False):
            output = output.float()
            teacher = self._read_teacher(index, given.stretch)
            temperature = self._soften(output, teacher, step)
            if self.guidance.has_temperature(step.progress):
                self.guidance.note(temperature, len(output.logits))
            return self._learn(output, index, step, teacher, temperature)

    def _augment(self, index: np.ndarray, batch: Padded, step: Step) -> Augmented:
        """What the student is given of a batch in a training step.

        An utterance's views are side by side.
        """
        views = self.distill.supcon_views
        logmel, mask = (t.repeat_interleave(views, dim=0) for t in (batch.frames, batch.mask))
        # the channels' means are what standardising turns into 0
        fill = self.model.standardise.mean.cpu()
        # a generator that is there twice goes on with other numbers
        generators = [rng for rng in step.generators_of_rows(index) for _ in range(views)]
        given = augment_logmel(logmel, mask, self.settings.augment, fill, generators)
        return given._replace(logmel=given.logmel.to(self.device), mask=given.mask.to(self.device))

    def _soften(self, output: StudentOutput, teacher: Says | None, step: Step) -> Temperature:
        """The temperature of KD for each row of an output, or for all."""
        if teacher is None:
            return self.distill.temperature
        return self.guidance.soften(output.logits, teacher.logits, step.progress)

    def _learn(
        self,
        output: StudentOutput,
        index: np.ndarray,
        step: Step,
        teacher: Says | None,
        temperature: Temperature,
    ) -> dict[str, Term]:
        """The loss of a student's output, of this student or of a pilot."""
        views, gather = self.distill.supcon_views, step.workers.gather
        labels = self._labels(np.repeat(index, views))
        projections, offset = gather(output.projection, len(step.batch), views)
        all_labels, _ = gather(labels, len(step.batch), views)
        target = None
        if teacher is not None:
            hint = self.guidance.build_hint(output, teacher.embedding)
            target = Target(teacher.logits, temperature, hint, self.hint_knee)
        return student_terms(
            output,
            labels,
            self.distill,
            self.guidance.weights(step.progress),
            target=target,
            keys=(projections, all_labels, offset),
        )

    def _labels(self, index: np.ndarray) -> Tensor:
        return torch.from_numpy(self.data.labels[index]).to(self.device)

    def _read_teacher(self, index: np.ndarray, stretch: Tensor) -> Says | None:
        """What the teacher says of every view: as stored, or as it is now where it learns.

        Layers that learn hear the view's own stretch; what is stored is of whole utterances.
        """
        if self.teacher is None:
            return None
        rows = np.repeat(index, self.distill.supcon_views)
        if self.lesson is not None:
            return self.lesson.teacher.read(rows, stretch)
        stored = (self.teacher.logits[rows], self.teacher.embedding[rows])
        return Says(*(torch.from_numpy(values).to(self.device) for values in stored))

    def before_step(self, index: np.ndarray, step: Step) -> dict[str, float]:
        scalars = self.guidance.scalars(step.progress)
        if self.lesson is None or not self.lesson.count_step():
            return scalars
        return {**scalars, **self._teach_teacher(self.lesson, index, step)}

    def _teach_teacher(self, lesson: Lesson, index: np.ndarray, step: Step) -> dict[str, float]:
        """The teacher's step: it descends the quiz loss of a pilot student.

        The pilot learns what the student will, from the same augmented batch and at the
        temperatures of the student before it. Without dropout, and batch normalisation goes by its
        running statistics: those of a batch have no double backward.
        """
        asked = lesson.draw_quiz(len(index), step)
        batch, quiz_batch = self.source.load([index, asked], step.epoch)
        given, quiz_inputs = self._augment(index, batch, step), quiz_batch.to(self.device)
        softened: list[Temperature] = []

        def loss(teacher: Says, student: Parameters) -> Tensor:
            output = functional_call(self.model, student, (given.logmel, given.mask))
            if not softened:
                softened.append(self._soften(output, teacher, step))
            terms = self._learn(output, index, step, teacher, softened[0]).values()
            return torch.stack([t.weight * t.total / (t.count or 1.0) for t in terms]).sum()

        def quiz(student: Parameters) -> Tensor:
            output = functional_call(self.model, student, quiz_inputs)
            return F.cross_entropy(output.logits, self._labels(asked))

        self.model.eval()  # all gradients must see the same function
        student: Parameters = dict(self.model.named_parameters())
        rows = np.repeat(index, self.distill.supcon_views)
        labels = self._labels(rows)
        scalars = lesson.take_step(student, loss, quiz, rows, labels, given.stretch)
        self.model.train()
        return scalars

    def evaluate(self, workers: Workers) -> dict[str, float]:
        self.model.eval()
        index = workers.share(self.data.dev_index)
        logits, _ = predict(forward_pair(self.model), self.source, index, self.device)
        metrics = self.data.dev_metrics(logits, index, workers)
        metrics |= self.guidance.pop_temperature(workers)
        return metrics if self.lesson is None else metrics | self.lesson.evaluate()
