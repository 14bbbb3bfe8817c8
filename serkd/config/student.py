"""The student, its losses, its curriculum, and what its teacher learns from it."""

from typing import Literal

from pydantic import Field, model_validator

from serkd.config.fit import PositiveFloat, PositiveInt, Share, StudentFit
from serkd.section import Section


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
