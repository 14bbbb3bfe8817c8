"""One experiment as strict, frozen models."""

from pydantic import model_validator

from serkd.config.data import Backbone, Corpus, Lora, Protocol
from serkd.config.distill import Curriculum, Distill, Meta
from serkd.config.fit import BackboneFit, Fit, PositiveInt, Seed, Stage2Fit, Train
from serkd.config.student import LogMel, SpecAugment, Student
from serkd.config.teacher import Augment, Extractor, Stage1, Stage2, Teacher, Units
from serkd.section import Section

__all__ = [
    "Augment",
    "Backbone",
    "BackboneFit",
    "Corpus",
    "Curriculum",
    "Distill",
    "Experiment",
    "Extractor",
    "Fit",
    "LogMel",
    "Lora",
    "Meta",
    "PositiveInt",
    "Protocol",
    "Seed",
    "SpecAugment",
    "Stage1",
    "Stage2",
    "Stage2Fit",
    "Student",
    "Teacher",
    "Train",
    "Units",
]


class Experiment(Section):
    """Everything that decides a result, apart from the fold."""

    corpus: Corpus = Corpus()
    protocol: Protocol = Protocol()
    backbone: Backbone = Backbone()
    extractor: Extractor = Extractor()
    units: Units = Units()
    teacher: Teacher = Teacher()
    student: Student = Student()
    distill: Distill = Distill()
    curriculum: Curriculum = Curriculum()
    meta: Meta = Meta()
    train: Train = Train()
    seed: Seed = 0

    @property
    def has_kd(self) -> bool:
        """Whether the student ever learns a teacher's logits."""
        return max(self.curriculum.alpha_ends(self.distill.alpha)) > 0

    @property
    def learns_labels(self) -> bool:
        """Whether KD ever leaves cross-entropy and SupCon a weight."""
        return min(self.curriculum.alpha_ends(self.distill.alpha)) < 1

    @property
    def has_temperature(self) -> bool:
        """Whether those are softened."""
        return self.has_kd and self.distill.kd != "mse_logits"

    @property
    def is_taught(self) -> bool:
        """Whether the student learns a teacher's logits or embeddings."""
        return self.has_kd or self.distill.gamma > 0

    @property
    def asks_teacher(self) -> bool:
        """Whether any teacher has a part in the student."""
        return self.is_taught or self.curriculum.scores_by_teacher or self.meta.order != "off"

    def _small_batches(self) -> list[str]:
        """A last batch may be half as large, and every worker must have some of it."""
        fits = {
            "extractor": self.extractor.fit,
            "teacher.stage1": self.teacher.stage1.fit,
            "teacher.stage2": self.teacher.stage2.fit,
            "student": self.student.fit,
        }
        least = 2 * self.train.num_workers if self.train.num_workers > 1 else 1
        return [
            f"{name}.fit.batch_size must be at least 2 x train.num_workers = {least}, "
            f"got {fit.batch_size}"
            for name, fit in fits.items()
            if fit.batch_size < least
        ]

    @model_validator(mode="after")
    def _sections_agree(self) -> "Experiment":
        problems = []
        if self.meta.order != "off" and self.train.num_workers > 1:
            problems.append(
                "meta.order must be 'off' when train.num_workers > 1, "
                f"got {self.meta.order!r} with {self.train.num_workers} workers"
            )
        scales = len(self.units.layers) * len(self.units.num_clusters)
        weights = self.teacher.stage1.scale_weights
        if weights is not None and len(weights) != scales:
            problems.append(
                f"teacher.stage1.scale_weights must be one for each of the {scales} scales, "
                f"got {list(weights)}"
            )
        problems += self._small_batches()
        curriculum, (start, end) = self.curriculum, self.curriculum.alpha_ends(self.distill.alpha)
        if curriculum.alpha_curriculum != "off" and start == end:
            problems.append(
                "curriculum.alpha_start and alpha_end must differ when curriculum.alpha_curriculum "
                f"is on (null = distill.alpha), got {start} for both"
            )
        is_fixed = curriculum.alpha_curriculum == "off"
        weight = "distill.alpha" if is_fixed else "curriculum.alpha_start or alpha_end"
        has_hint = self.meta.has_live_layers and self.distill.gamma > 0
        if self.meta.order != "off" and not (self.has_kd or has_hint):
            problems.append(
                f"{weight} must be above 0 when meta.order is on (the teacher is taught "
                "through the distillation term, or layers of it, with meta.trains: last_n, through "
                f"the hint, distill.gamma), got 0 with {self.meta.order!r}"
            )
        knee = self.distill.hint_knee
        if has_hint and knee is not None and knee < 0.01:
            problems.append(
                "distill.hint_knee must be at least 0.01 when meta.trains is 'last_n' and "
                "distill.gamma above 0 (an absolute difference gives layers no slope), got "
                f"{knee:g}"
            )
        if self.distill.supcon_weight == 1.0 and not self.has_kd:
            problems.append(
                f"distill.supcon_weight must be below 1 unless {weight} is above 0 (nothing would "
                "teach the classifier), got 1"
            )
        is_live_head = self.meta.order != "off" and not self.meta.has_live_layers
        if (
            is_live_head
            and self.teacher.stage2.loss != "cross_entropy"
            and self.teacher.answer_speeds != (1.0,)
        ):
            problems.append(
                "teacher.answer_speeds must be [1.0] when meta.order is on and "
                f"teacher.stage2.loss is {self.teacher.stage2.loss!r} (a cosine of mean embeddings "
                f"is no mean of cosines), got {list(self.teacher.answer_speeds)}"
            )
        if self.meta.has_live_layers and self.teacher.answer_speeds != (1.0,):
            problems.append(
                "teacher.answer_speeds must be [1.0] when meta.trains is 'last_n' (layers that "
                f"learn hear every utterance once), got {list(self.teacher.answer_speeds)}"
            )
        if self.distill.teacher == "random" and not self.asks_teacher:
            problems.append(
                "distill.teacher must be 'trained' when the student asks no teacher (distill.alpha "
                "and distill.gamma are 0, and nothing is ranked by one), got 'random'"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self
