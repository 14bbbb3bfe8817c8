"""How models are trained, and where; and the numbers that settings are made of."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from serkd.section import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # where scikit-learn's and NumPy's end
PositiveFloat = Annotated[float, Field(gt=0.0)]
PositiveInt = Annotated[int, Field(ge=1)]


def _check_ratios(ratios: tuple[float, float]) -> tuple[float, float]:
    low, high = ratios
    if not -60 <= low <= high <= 100:
        raise ValueError(f"must be [low, high], from -60 to 100 dB, got {list(ratios)}")
    return ratios


NoiseRatios = Annotated[  # beyond them, noise of float32 is silence, or all there is
    tuple[float, float],
    AfterValidator(_check_ratios),
    Field(description="white noise at a ratio drawn between these, -60 to 100 dB; null = none"),
]


class Fit(Section):
    """How one model is trained."""

    epochs: PositiveInt = Field(10, description="passes over the utterances of train")
    batch_size: PositiveInt = Field(32, description="utterances per step, over all workers")
    batches: Literal["shuffled", "class_balanced"] = Field(
        "shuffled", description="class_balanced: as many of every class in a batch, rare ones again"
    )
    lr: PositiveFloat = Field(1e-3, description="peak learning rate of new parameters")
    weight_decay: float = Field(0.01, ge=0.0, description="AdamW's, of matrices; vectors have none")
    warmup: Share = Field(0.05, description="share of steps with a linear warm-up; cosine after")
    clip_norm: PositiveFloat = Field(1.0, description="longest gradient of a step")
    ema_decay: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="the model is the moving average of its weights after each step; 0 = the last "
        "ones",
    )
    patience: PositiveInt | None = Field(
        None, description="stop after so many epochs without a better dev UAR; null = never"
    )


class BackboneFit(Fit):
    backbone_lr: PositiveFloat = Field(5e-5, description="peak learning rate of the suffix")
    layer_decay: float = Field(
        1.0, gt=0.0, le=1.0, description="learning rate of a layer by that of the layer above it"
    )


class Stage2Fit(BackboneFit):
    epochs: int = Field(
        10, ge=0, description="0 = the probe that stage2.probe_l2 asks for, as it is"
    )


class Stage1Fit(BackboneFit):
    backbone_lr: PositiveFloat = Field(1e-4, description="peak learning rate of the suffix")


class StudentFit(Fit):
    epochs: PositiveInt = Field(30, description="passes over the utterances of train")


class Train(Section):
    """Where loops run. None of it is in a content key: no loss, batch or schedule depends on it.

    Sums are rounded in another order, and each worker draws its own dropout.
    """

    num_workers: PositiveInt = Field(1, description="1 = in the caller's process, more = Ray Train")
    resources_per_worker: dict[str, PositiveFloat] | None = Field(
        None, description="e.g. {CPU: 4, GPU: 1}; null = a GPU each if there are enough, else a CPU"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_frames: PositiveInt | None = Field(
        None,
        description="padded frames of a teacher's batch in memory at once, each worker; larger "
        "batches are accumulated, longer utterances go alone; null = whole batches",
    )
    checkpoint_layers: bool = Field(
        False, description="gradient checkpointing: less memory for a second forward pass"
    )
    compile: bool = Field(False, description="torch.compile of the trained layers")
    cache_gb: PositiveFloat = Field(
        8.0,
        description="frames in memory, of all clustering actors or of all workers of a teacher's "
        "training, which stream what is larger from disk, and as much again of audio, where it is "
        "augmented; a student's input is in memory whole, in each of its workers",
    )
