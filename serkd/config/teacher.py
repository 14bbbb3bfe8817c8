"""GMP-TL: the extractor, the units of its hidden states, and the two stages of the teacher."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from serkd.config.fit import (
    BackboneFit,
    NoiseRatios,
    PositiveFloat,
    PositiveInt,
    Share,
    Stage1Fit,
    Stage2Fit,
)
from serkd.gender import GenderMode
from serkd.section import Section

Pooling = Literal["mean", "attention", "attentive_statistics"]


def _beside_one(speeds: Sequence[float]) -> tuple[float, ...]:
    """Those whose frames are stored apart: the audio as it is has its own."""
    return tuple(sorted(set(speeds) - {1.0}))


def _find_speed_problems(name: str, speeds: Sequence[float]) -> list[str]:
    problems = []
    if outside := [factor for factor in speeds if not 0.5 <= factor <= 2.0]:
        problems.append(f"{name} must be 0.5 to 2, got {outside}")
    if between := [factor for factor in speeds if round(factor, 3) != factor]:
        problems.append(f"{name} must have at most three decimals, got {between}")
    return problems


class Augment(Section):
    """Of training waveforms, drawn anew in every epoch.

    With noise the frozen prefix is run in every step; speeds alone are few, and stored.
    """

    noise_snr_db: NoiseRatios | None = None
    speed: tuple[PositiveFloat, ...] = Field(
        (1.0,), min_length=1, description="factors, one drawn for each utterance"
    )

    @property
    def is_on(self) -> bool:
        """Whether waveforms are changed at all."""
        return self.noise_snr_db is not None or self.speed != (1.0,)

    @property
    def stored_speeds(self) -> tuple[float, ...]:
        """The speeds other than 1 whose frames can be stored."""
        if self.noise_snr_db is not None:
            return ()
        return _beside_one(self.speed)

    @model_validator(mode="after")
    def _in_range(self) -> "Augment":
        if problems := _find_speed_problems("speed", self.speed):
            raise ValueError("; ".join(problems))
        return self


class Extractor(Section):
    """Multi-task fine-tuning whose hidden states are clustered (GMP-TL)."""

    emotion_weight: Share = Field(0.9, description="a in a·CE_emotion + (1-a)·CE_gender")
    pooling: Pooling = "attentive_statistics"
    augment: Augment = Augment()
    fit: BackboneFit = BackboneFit()


class Units(Section):
    layers: tuple[PositiveInt, ...] = Field((1, 2), min_length=1)
    num_clusters: tuple[Annotated[int, Field(ge=2)], ...] = Field((64,), min_length=1)
    source: Literal["extractor", "backbone"] = Field(
        "extractor",
        description="whose hidden states are clustered: those fine-tuned for it (GMP-TL), or the "
        "pre-trained ones",
    )
    gender_mode: GenderMode = Field(
        GenderMode.mtl,
        description="mtl: through the extractor's second task; none: not at all; joint: mtl and a "
        "unit id for each gender; per_gender: mtl and a k-means for each; shuffled: joint, but "
        "genders are dealt to speakers anew",
    )
    max_iterations: PositiveInt = Field(25, description="Lloyd iterations")
    tolerance: float = Field(1e-4, ge=0.0, description="stop when inertia improves less than this")
    balanced: bool = Field(False, description="clusters of about equal size, at a higher inertia")
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
    scale_weights: tuple[PositiveFloat, ...] | None = Field(
        None,
        description="w of each (layer, num_clusters), layer by layer in the order of units.layers: "
        "the loss is the sum of w · CE / log K, not divided by the sum of w; null = 1 each",
    )
    fit: Stage1Fit = Stage1Fit()


class Stage2(Section):
    """Fine-tuning on the utterances' emotions."""

    pooling: Pooling = "attention"
    loss: Literal["am_softmax", "aam_softmax", "cross_entropy"] = Field(
        "am_softmax",
        description="margin on the cosine (AM), on the angle (AAM), or none; cross_entropy with "
        "class_weights: balanced is weighted cross-entropy",
    )
    scale: PositiveFloat = Field(15.0, description="s of AM- and AAM-Softmax")
    margin: float = Field(0.2, ge=0.0, lt=1.0, description="m of AM- and AAM-Softmax (radians)")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: every class of train has the same weight in the loss"
    )
    probe_l2: PositiveFloat | None = Field(
        None,
        description="the classifier starts as the logistic regression on the start's pooled "
        "frames, with probe_l2 / 2 · |W|^2 beside its mean loss; null = at random",
    )
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    mask_start_share: Share = Field(0.0, description="SpecAugment over time on the suffix's input")
    mask_span_frames: PositiveInt = 10
    unit_weight: float = Field(
        0.0, ge=0.0, description="lambda: stage 1's loss, all frames, kept as a regulariser"
    )
    augment: Augment = Augment()
    fit: Stage2Fit = Stage2Fit()

    @model_validator(mode="after")
    def _possible(self) -> "Stage2":
        if self.fit.epochs == 0 and self.probe_l2 is None:
            raise ValueError("fit.epochs must be at least 1 unless probe_l2 is set, got 0")
        if self.probe_l2 is not None and self.loss != "cross_entropy":
            raise ValueError(
                f"probe_l2 must be null unless loss is 'cross_entropy', got {self.probe_l2:g} with "
                f"{self.loss!r}"
            )
        if self.class_weights == "balanced" and self.fit.batches == "class_balanced":
            raise ValueError(
                "class_weights must be 'none' when fit.batches is 'class_balanced' (rare classes "
                "would count twice), got 'balanced'"
            )
        return self


class Teacher(Section):
    start: Literal["units", "extractor", "backbone"] = Field(
        "units",
        description="what stage 2 starts from: stage 1 (GMP-TL), the extractor, or the "
        "pre-trained backbone",
    )
    inner_folds: int = Field(
        0,
        ge=0,
        le=20,
        description="K teachers, each trained without some speakers of train, score those: "
        "out-of-fold logits for difficulty; 0 = none",
    )
    answer_speeds: tuple[PositiveFloat, ...] = Field(
        (1.0,),
        min_length=1,
        description="the teacher's answer is the mean of its logits and embeddings of an utterance "
        "played so many times as fast",
    )
    stage1: Stage1 = Stage1()
    stage2: Stage2 = Stage2()

    @property
    def other_answer_speeds(self) -> tuple[float, ...]:
        """Those whose frames are stored beside the usual ones."""
        return _beside_one(self.answer_speeds)

    @model_validator(mode="after")
    def _possible(self) -> "Teacher":
        problems = []
        problems += _find_speed_problems("answer_speeds", self.answer_speeds)
        if len(set(self.answer_speeds)) < len(self.answer_speeds):
            problems.append(f"answer_speeds must not repeat, got {list(self.answer_speeds)}")
        if self.inner_folds == 1:
            problems.append("inner_folds must be 0 or at least 2, got 1")
        if self.stage2.unit_weight > 0 and self.start != "units":
            problems.append(
                "stage2.unit_weight must be 0 unless start is 'units', "
                f"got {self.stage2.unit_weight:g} with {self.start!r}"
            )
        if self.stage2.unit_weight > 0 and self.stage2.augment.speed != (1.0,):
            problems.append(
                "stage2.augment.speed must be [1.0] when stage2.unit_weight is on (units would "
                f"lie at other frames), got {list(self.stage2.augment.speed)}"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self
