"""One experiment as strict, frozen models."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from serkd.gender import GenderMode
from serkd.section import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
PositiveInt = Annotated[int, Field(ge=1)]


class Corpus(Section):
    manifest: str = Field("manifest.parquet", description="what `serkd prepare` wrote")
    more_manifests: tuple[str, ...] = Field(
        (), description="of further corpora, to train on all of them or to test across them"
    )
    max_duration_s: PositiveFloat = Field(
        30.0, le=30.0, description="longer utterances are cut to their first seconds"
    )


class Protocol(Section):
    """Which utterances are train, dev and test. The folds of a sweep's trials are the same."""

    name: Literal[
        "speaker_kfold",
        "leave_one_speaker_out",
        "leave_one_session_out",
        "official",
        "cross_corpus",
    ] = "speaker_kfold"
    num_folds: int = Field(
        5, ge=3, description="speaker_kfold without folds; cross_corpus: dev is 1/num_folds"
    )
    folds: tuple[tuple[str, ...], ...] | None = Field(
        None, description="speaker_kfold only: speakers of each fold; null = gender-balanced ones"
    )
    seed: int = Field(
        0, ge=0, description="deals speakers; apart from the experiment's, so seeds share folds"
    )
    test_corpora: tuple[str, ...] = Field(
        (), description="cross_corpus only: tested on; all other corpora are trained on"
    )
    labels: tuple[Annotated[str, Field(pattern="^[^=]+=[^=]+$")], ...] = Field(
        (), description="cross_corpus only: theirs=ours, a corpus's emotion under another's name"
    )

    @model_validator(mode="after")
    def _crosses_to_something(self) -> "Protocol":
        if self.name == "cross_corpus" and not self.test_corpora:
            raise ValueError("test_corpora must name a corpus when name is 'cross_corpus'")
        return self


class Backbone(Section):
    name: str = Field(
        "tiny-hubert", description="'tiny-hubert' (random weights), a folder or a hub name"
    )
    frozen_layers: int = Field(
        0, ge=0, description="transformer layers that are frozen with all that is below them"
    )


class Fit(Section):
    """How one model is trained."""

    epochs: PositiveInt = 10
    batch_size: PositiveInt = Field(32, description="utterances per step, over all workers")
    lr: PositiveFloat = Field(1e-3, description="peak learning rate of new parameters")
    weight_decay: float = Field(0.01, ge=0.0)
    warmup: Share = Field(0.05, description="share of steps with a linear warm-up; cosine after")
    clip_norm: PositiveFloat = 1.0
    patience: PositiveInt | None = Field(
        None, description="stop after so many epochs without a better dev UAR; null = never"
    )


class BackboneFit(Fit):
    backbone_lr: PositiveFloat = Field(5e-5, description="peak learning rate of the suffix")


class Stage1Fit(BackboneFit):
    backbone_lr: PositiveFloat = Field(1e-4, description="peak learning rate of the suffix")


class StudentFit(Fit):
    epochs: PositiveInt = 30


Pooling = Literal["mean", "attention", "attentive_statistics"]


class Extractor(Section):
    """Multi-task fine-tuning whose hidden states are clustered (GMP-TL)."""

    emotion_weight: Share = Field(0.9, description="a in a·CE_emotion + (1-a)·CE_gender")
    pooling: Pooling = "attentive_statistics"
    fit: BackboneFit = BackboneFit()


class Units(Section):
    layers: tuple[PositiveInt, ...] = Field((1, 2), min_length=1)
    num_clusters: tuple[Annotated[int, Field(ge=2)], ...] = Field((64,), min_length=1)
    gender_mode: GenderMode = Field(
        GenderMode.mtl,
        description="mtl: through the extractor's second task; none: not at all; joint: mtl and a "
        "unit id for each gender; per_gender: mtl and a k-means for each; shuffled: joint, but "
        "genders are dealt to speakers anew",
    )
    max_iterations: PositiveInt = Field(25, description="Lloyd iterations")
    tolerance: float = Field(1e-4, ge=0.0, description="stop when inertia improves less than this")
    max_points: PositiveInt | None = Field(
        None, description="frames that a k-means uses, drawn at random; null = all of train"
    )

    @model_validator(mode="after")
    def _possible(self) -> "Units":
        for name in ("layers", "num_clusters"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must not repeat a value, got {list(values)}")
        if self.max_points is not None and self.max_points < max(self.num_clusters):
            raise ValueError(
                f"max_points must be at least the largest of num_clusters = "
                f"{max(self.num_clusters)}, got {self.max_points}"
            )
        return self


class Stage1(Section):
    """Fine-tuning on the frame-level pseudo-labels."""

    frames: Literal["masked", "all"] = "masked"
    mask_start_share: Share = Field(0.065, description="share of frames that start a masked span")
    mask_span_frames: PositiveInt = 10
    fit: Stage1Fit = Stage1Fit()


class Stage2(Section):
    """Fine-tuning on the utterances' emotions."""

    pooling: Pooling = "attention"
    loss: Literal["am_softmax", "cross_entropy"] = "am_softmax"
    scale: PositiveFloat = Field(15.0, description="s of AM-Softmax")
    margin: float = Field(0.2, ge=0.0, lt=1.0, description="m of AM-Softmax")
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    mask_start_share: Share = Field(0.0, description="SpecAugment over time on the suffix's input")
    mask_span_frames: PositiveInt = 10
    fit: BackboneFit = BackboneFit()


class Teacher(Section):
    stage1: Stage1 = Stage1()
    stage2: Stage2 = Stage2()


class LogMel(Section):
    num_mels: PositiveInt = 80
    frame_rate_hz: Literal[50, 100] = 100


class SpecAugment(Section):
    """SpecAugment (arXiv 1904.08779) without time warping, on log-mel."""

    time_masks: int = Field(2, ge=0)
    time_mask_frames: PositiveInt = 20
    mel_masks: int = Field(2, ge=0)
    mel_mask_bins: PositiveInt = 12


class Student(Section):
    family: Literal["conv", "token"] = "conv"
    logmel: LogMel = LogMel()
    width: PositiveInt = Field(128, description="channels (conv) or token width (token)")
    depth: PositiveInt = 4
    kernel_frames: PositiveInt = Field(5, description="conv only")
    num_heads: PositiveInt = Field(4, description="token only")
    ffn_ratio: PositiveInt = Field(2, description="token only")
    num_frames: PositiveInt = Field(300, description="token only: the fixed length F")
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    augment: SpecAugment = SpecAugment()
    fit: StudentFit = StudentFit()

    @model_validator(mode="after")
    def _legal_shape(self) -> "Student":
        problems = []
        if self.family == "token" and self.width % self.num_heads:
            problems.append(
                f"width must be a multiple of num_heads = {self.num_heads}, got {self.width}"
            )
        if self.kernel_frames % 2 == 0:
            problems.append(f"kernel_frames must be odd, got {self.kernel_frames}")
        if self.augment.mel_mask_bins > self.logmel.num_mels:
            problems.append(
                f"augment.mel_mask_bins must be at most logmel.num_mels = {self.logmel.num_mels}, "
                f"got {self.augment.mel_mask_bins}"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Distill(Section):
    """(1 - alpha)·((1 - supcon_weight)·CE + supcon_weight·SupCon) + alpha·KD."""

    alpha: Share = 0.7
    temperature: PositiveFloat = Field(4.0, le=100.0)
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    supcon_weight: Share = 0.1
    supcon_temperature: PositiveFloat = 0.07


class Curriculum(Section):
    """Which share of the training utterances is used at which time."""

    pacing: Literal["none", "linear", "root", "exponential", "step"] = "none"
    scorer: Literal["teacher_cross_entropy", "teacher_entropy"] = "teacher_cross_entropy"
    control: Literal["curriculum", "anti", "random"] = "curriculum"
    start_share: float = Field(0.3, gt=0.0, le=1.0, description="c0: share at the first epoch")
    full_at: float = Field(
        0.5, gt=0.0, le=1.0, description="share of training after which all is used"
    )


class Meta(Section):
    """Meta-knowledge: the teacher's head learns from the pilot student's quiz loss (MetaDistil)."""

    order: Literal["off", "second", "finite"] = "off"
    quiz_share: float = Field(0.1, gt=0.0, lt=0.5, description="share of train, whole speakers")
    pilot_lr: PositiveFloat = 1e-3
    teacher_lr: PositiveFloat = 1e-4
    every_steps: PositiveInt = 1


class Train(Section):
    """Where loops run. Nothing here changes a result, so nothing here is in a content key."""

    num_workers: PositiveInt = Field(1, description="1 = in the caller's process, more = Ray Train")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cache_gb: PositiveFloat = Field(8.0, description="frames that clustering keeps in memory")


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
    seed: int = Field(0, ge=0, le=2**32 - 1)

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
        frozen, problems = self.backbone.frozen_layers, []
        if below := [layer for layer in self.units.layers if layer < frozen]:
            problems.append(
                f"units.layers must be at least backbone.frozen_layers = {frozen} "
                f"(only the frozen prefix's output is stored), got {below}"
            )
        if self.meta.order != "off" and self.train.num_workers > 1:
            problems.append(
                "meta.order must be 'off' when train.num_workers > 1, "
                f"got {self.meta.order!r} with {self.train.num_workers} workers"
            )
        problems += self._small_batches()
        if self.meta.order != "off" and self.distill.alpha == 0.0:
            problems.append(
                "distill.alpha must be above 0 when meta.order is on (the head is taught through "
                f"the distillation term), got 0 with {self.meta.order!r}"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self
