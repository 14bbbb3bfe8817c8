"""What a student learns of a teacher and when, and what the teacher learns from it."""

from typing import Literal

from pydantic import Field, model_validator

from serkd.config.fit import PositiveFloat, PositiveInt, Share
from serkd.section import Section


class Distill(Section):
    """(1 - alpha)·((1 - supcon_weight)·CE + supcon_weight·SupCon) + alpha·KD + gamma·hint."""

    teacher: Literal["trained", "random"] = Field(
        "trained",
        description="random: as stage 2 would begin, but with trainable layers whose weights are "
        "drawn anew; a control",
    )
    alpha: Share = Field(0.7, description="weight of KD; curriculum.alpha_curriculum may change it")
    kd: Literal["kl", "mse_logits", "dkd"] = Field(
        "kl", description="what KD is; mse_logits has no temperature"
    )
    temperature: float = Field(
        4.0, ge=1e-3, le=100.0, description="of kl and dkd; where a temperature curriculum starts"
    )
    dkd_target_weight: float = Field(1.0, ge=0.0, description="dkd only: label against the rest")
    dkd_other_weight: float = Field(8.0, ge=0.0, description="dkd only: among the other classes")
    gamma: float = Field(
        0.0,
        ge=0.0,
        description="weight of the hint: cosine and L1 to the teacher's pooled embedding; 0 = none",
    )
    hint_knee: float | None = Field(
        None,
        ge=0.0,
        le=10.0,
        description="differences of the hint below it are squared (smooth L1); null = 1 where the "
        "teacher's layers learn (meta.trains: last_n), to whom L1 gives no slope, else 0. 1.0 in "
        "all arms compares such a teacher with a fixed one in nothing else",
    )
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of a label that all classes get alike, in CE"
    )
    supcon_weight: Share = Field(
        0.1, description="of supervised contrast of the student's embeddings, against CE"
    )
    supcon_temperature: float = Field(
        0.07, ge=1e-3, le=100.0, description="lower: the hardest pairs weigh more"
    )
    supcon_views: Literal[1, 2] = Field(
        1,
        description="2 = every utterance twice in a batch, each time augmented anew (without "
        "augmentation and dropout the two are the same)",
    )

    def choose_knee(self, *, is_live: bool) -> float:
        """Of the hint, from a teacher whose layers learn or a fixed one.

        1 is smooth L1 as Girshick's (arXiv 1504.08083), 0 plain L1.
        """
        return float(is_live) if self.hint_knee is None else self.hint_knee

    @model_validator(mode="after")
    def _says_something(self) -> "Distill":
        if self.kd == "dkd" and self.dkd_target_weight == self.dkd_other_weight == 0:
            raise ValueError(
                "dkd_target_weight or dkd_other_weight must be above 0 when kd is 'dkd' (nothing "
                "would be distilled), got 0 and 0"
            )
        return self


class Curriculum(Section):
    """What changes in the course of training: data in use, temperature, weight of KD.

    Every `…full_at` is a share of training, after which its schedule is constant.
    """

    pacing: Literal["none", "linear", "root", "exponential", "step"] = Field(
        "none", description="how the share of data in use grows from start_share to all of it"
    )
    scorer: Literal[
        "teacher_cross_entropy",
        "teacher_entropy",
        "margin",
        "student_teacher_kl",
        "annotator_disagreement",
        "random",
    ] = Field(
        "teacher_cross_entropy",
        description="what is difficult. The teacher's are of the one that has not seen the speaker "
        "when teacher.inner_folds is on, else of the one that was trained on the utterance, which "
        "calls nearly all easy; student_teacher_kl is scored anew in every epoch (self-paced); "
        "annotator_disagreement needs a manifest with votes",
    )
    control: Literal["curriculum", "anti", "random"] = Field(
        "curriculum",
        description="which come first: the easy ones, the hard ones, or any; the last two tell "
        "whether order matters. Each class has the same share at all times",
    )
    start_share: float = Field(0.3, gt=0.0, le=1.0, description="c0: share at the first epoch")
    full_at: float = Field(
        0.5,
        gt=0.0,
        le=1.0,
        description="share of training after which all is used; the last epoch always has all",
    )
    num_jumps: PositiveInt | None = Field(
        None,
        description="the share rises in so many jumps, as in fixed exponential pacing; "
        "null = a little in every epoch",
    )
    temperature_curriculum: Literal["off", "global", "instance"] = Field(
        "off",
        description="CTKD: a temperature that learns to make KD harder, one for all utterances or "
        "one for each; it starts at distill.temperature, or as near as its bounds allow",
    )
    temperature_start: float = Field(
        1.0, ge=1e-3, le=100.0, description="lower bound of a learned temperature"
    )
    temperature_range: float = Field(
        10.0, ge=0.01, le=100.0, description="upper bound - lower bound"
    )
    temperature_lr: PositiveFloat = Field(0.05, description="peak learning rate of temperatures")
    temperature_full_at: float = Field(
        0.33,
        gt=0.0,
        le=1.0,
        description="share of training after which lambda, the factor of the gradient that "
        "temperatures are given, has gone from 0 to -1: they then ascend the loss",
    )
    alpha_curriculum: Literal["off", "linear", "cosine"] = Field(
        "off", description="how distill.alpha changes from alpha_start to alpha_end"
    )
    alpha_start: Share | None = Field(None, description="null = distill.alpha")
    alpha_end: Share | None = Field(None, description="null = distill.alpha")
    alpha_full_at: float = Field(
        1.0, gt=0.0, le=1.0, description="share of training after which it is alpha_end"
    )

    @property
    def is_paced(self) -> bool:
        """Whether some utterances are in use later than others."""
        return self.pacing != "none" and self.start_share < 1

    @property
    def ranks(self) -> bool:
        """Whether which those are depends on how difficult they are."""
        return self.is_paced and self.control != "random"

    @property
    def scores_by_teacher(self) -> bool:
        """Whether difficulty is what a teacher says."""
        return self.ranks and self.scorer not in ("annotator_disagreement", "random")

    @property
    def needs_votes(self) -> bool:
        """Whether difficulty is what annotators say."""
        return self.ranks and self.scorer == "annotator_disagreement"

    def alpha_ends(self, alpha: float) -> tuple[float, float]:
        """The weight of KD at the start and at the end, where `alpha` is distill.alpha."""
        if self.alpha_curriculum == "off":
            return alpha, alpha
        ends = (self.alpha_start, self.alpha_end)
        start, end = (alpha if value is None else value for value in ends)
        return start, end


class Meta(Section):
    """Meta-knowledge: the teacher learns from the quiz loss of a pilot student (MetaDistil)."""

    order: Literal["off", "second", "finite"] = Field(
        "off", description="second: exact gradient; finite: by differences; off: a fixed teacher"
    )
    trains: Literal["head", "last_n"] = Field(
        "head",
        description="the classifier, or the last_layers last layers with all above them",
    )
    last_layers: PositiveInt = Field(
        1, description="last_n only: n, at most the layers above backbone.frozen_layers"
    )
    rho: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="share of the teacher's own cross-entropy in its step, 1 - rho the quiz's; its "
        "gradient is brought to the length of the quiz's before",
    )
    quiz_share: float = Field(
        0.1,
        gt=0.0,
        lt=0.5,
        description="share of train, whole speakers: more where they are few or have much",
    )
    pilot_lr: PositiveFloat = Field(1e-3, description="of the pilot student's gradient step")
    teacher_lr: PositiveFloat = Field(
        1e-4, description="of the teacher's Adam; layers need a lower one than a head, about 1e-5"
    )
    every_steps: PositiveInt = Field(
        1, description="student's steps for each of the teacher's, over all epochs"
    )

    @property
    def has_live_layers(self) -> bool:
        """Whether layers of the teacher move, and not its head alone."""
        return self.order != "off" and self.trains == "last_n"
