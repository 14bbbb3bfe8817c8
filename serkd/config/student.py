"""The student: what it hears, its family and size, and how its input is augmented."""

import math
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from serkd.config.fit import NoiseRatios, PositiveInt, StudentFit
from serkd.section import Section

# of conv_token
TOKEN_WIDTH = 64
PATCH_STEPS = 8  # of the last convolutions; patches overlap by half
_SERIES_S = 6  # of token: the paper's 250 to 375 frames of 20 ms are 5 to 7.5 s

_MOST_FRAMES = 360_000  # an hour
Frames = Annotated[PositiveInt, Field(le=_MOST_FRAMES)]


class LogMel(Section):
    num_mels: PositiveInt = Field(80, description="bands from 0 to 8 kHz")
    frame_rate_hz: Literal[50, 100] = Field(100, description="frames of 25 ms a second")


class SpecAugment(Section):
    """SpecAugment (arXiv 1904.08779) without time warping, and what goes before it, on log-mel."""

    crop_frames: Frames | None = Field(
        None, description="a random stretch of so many frames of every utterance; null = all of it"
    )
    speed: float = Field(
        0.0, ge=0.0, le=1.0, description="most change of tempo: by a factor of up to exp(speed)"
    )
    mel_shift_bins: float = Field(
        0.0,
        ge=0.0,
        le=100.0,
        description="most bins to move the spectrum up or down, as another voice would",
    )
    gain_db: float = Field(
        0.0, ge=0.0, le=60.0, description="most decibels louder or softer, as a whole"
    )
    filter_db: float = Field(
        0.0,
        ge=0.0,
        le=60.0,
        description="most decibels by which bands are, as through another microphone",
    )
    time_masks: int = Field(2, ge=0, le=1_000, description="stretches of time to mask")
    time_mask_frames: Frames = Field(20, description="most frames of one")
    mel_masks: int = Field(
        2, ge=0, le=1_000, description="bands to mask; of hidden states, neighbouring channels"
    )
    mel_mask_bins: Frames = Field(12, description="most bins of one")
    noise_snr_db: NoiseRatios | None = None
    time_shift_frames: int = Field(
        0,
        ge=0,
        le=_MOST_FRAMES,
        description="most frames to move an utterance earlier or later; 0 = none",
    )


class Hidden(Section):
    """Frames of a pretrained encoder as the student's input."""

    source: Literal["backbone", "extractor"] = Field(
        "backbone", description="as it was pre-trained, or as the extractor fine-tuned it"
    )
    layer: int = Field(1, ge=0, description="of the backbone; 0 enters its first layer")


class Shape(NamedTuple):
    """Of a family and size."""

    width: int
    depth: int


# about 0.4, 1.6 and 3 million parameters with 80 mels at 100 Hz; base is deeper where layers over
# time are the cheapest of a parameter's places
SHAPES: dict[str, dict[str, Shape]] = {
    "conv": {"nano": Shape(136, 3), "small": Shape(280, 3), "base": Shape(288, 6)},
    "token": {"nano": Shape(136, 2), "small": Shape(288, 2), "base": Shape(332, 3)},
    "conv_token": {"nano": Shape(128, 3), "small": Shape(272, 3), "base": Shape(288, 6)},
}


class Student(Section):
    family: Literal["conv", "token", "conv_token"] = Field(
        "conv",
        description="convolutions over time; the paper's variate tokens; or convolutions whose "
        "channels are the tokens",
    )
    input: Literal["logmel", "hidden"] = Field(
        "logmel", description="hidden needs the backbone whenever the student is used"
    )
    logmel: LogMel = LogMel()
    hidden: Hidden = Hidden()
    deltas: bool = Field(False, description="slopes over time of the input, and theirs, as well")
    size: Literal["nano", "small", "base"] = Field(
        "nano", description="width and depth of about 0.4, 1.6 or 3 million parameters on 80 mels"
    )
    width: PositiveInt | None = Field(
        None, description="channels (conv, conv_token) or token width (token); null = the size's"
    )
    depth: PositiveInt | None = Field(
        None, description="layers over time (conv, conv_token) or over tokens; null = the size's"
    )
    stem: Literal["spectrum", "frames"] | None = Field(
        None,
        description="conv and conv_token: three convolutions over time and mels go before those "
        "over time, or none; null = spectrum for logmel, frames for hidden",
    )
    kernel_frames: PositiveInt = Field(
        5,
        description="conv and conv_token: of layers over time; the first behind the spectrum stem "
        "is of 1 frame",
    )
    reduction: Literal[1, 2, 4] = Field(
        4, description="conv and conv_token: frames of 20 ms to a step of the last convolutions"
    )
    length: Literal["crop", "resample", "window"] = Field(
        "crop",
        description="token and conv_token: how a channel's series gets num_frames: the first ones; "
        "all in so many steps, with a token for the duration; or the mean over windows",
    )
    num_frames: PositiveInt | None = Field(
        None,
        description="token and conv_token: length F of a series, where conv_token counts steps "
        "of its last convolutions; null = 6 s (token) or 64 steps (conv_token)",
    )
    instance_norm: bool = Field(
        True,
        description="token only: whether mean and range of a channel over the utterance are taken "
        "away, as in the paper",
    )
    token_pooling: Literal["mean", "attention"] = Field(
        "mean", description="token only: of tokens to the embedding"
    )
    channel_embedding: bool | None = Field(
        None,
        description="token and conv_token: whether tokens know which channel they are; "
        "null = not in token, as in the paper, but in conv_token",
    )
    token_depth: PositiveInt = Field(1, description="conv_token only: layers over tokens")
    num_heads: PositiveInt = Field(4, description="token and conv_token: of attention over tokens")
    ffn_ratio: PositiveInt = Field(
        2, description="token and conv_token: width of feed-forward layers by that of tokens"
    )
    dropout: float = Field(
        0.1, ge=0.0, lt=1.0, description="in layers over time or tokens, and before the classifier"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of training's forward pass, without losses and meta-knowledge; bfloat16 is "
        "float32 on a processor that has none",
    )
    augment: SpecAugment = SpecAugment()
    fit: StudentFit = StudentFit()

    @property
    def shape(self) -> Shape:
        """Width and depth."""
        found = SHAPES[self.family][self.size]
        return Shape(self.width or found.width, self.depth or found.depth)

    @property
    def input_rate_hz(self) -> int:
        """Frames a second of the input; all backbones have 50."""
        return self.logmel.frame_rate_hz if self.input == "logmel" else 50

    @property
    def has_backbone(self) -> bool:
        """Whether it hears through one."""
        return self.input == "hidden"

    @property
    def stored_as(self) -> tuple[str, str]:
        """The stage and the column of its input's frames."""
        if not self.has_backbone:
            return "logmel", "logmel"
        stage = "features" if self.hidden.source == "backbone" else "hidden"
        return stage, f"layer_{self.hidden.layer}"

    @property
    def has_spectrum_stem(self) -> bool:
        """Whether neighbours among the input's channels are convolved."""
        return (self.stem or ("spectrum" if self.input == "logmel" else "frames")) == "spectrum"

    @property
    def series_frames(self) -> int:
        """The length of a series."""
        default = _SERIES_S * self.input_rate_hz if self.family == "token" else 64
        return self.num_frames or default

    @property
    def num_halvings(self) -> int:
        """How often convolutions halve the rate of the input: to 50 Hz / `reduction`."""
        return round(math.log2(self.reduction * self.input_rate_hz / 50))

    @property
    def has_channel_embedding(self) -> bool:
        """Whether tokens know which channel they are."""
        return (
            (self.family != "token") if self.channel_embedding is None else self.channel_embedding
        )

    @model_validator(mode="after")
    def _legal_shape(self) -> "Student":
        problems = [*self._token_problems(), *self._input_problems()]
        halvings, depth = self.num_halvings, self.shape.depth
        if self.family != "token" and not self.has_spectrum_stem and depth < halvings:
            problems.append(
                f"depth must be at least {halvings}, one layer for each halving from "
                f"{self.input_rate_hz} Hz, when reduction is {self.reduction} without the spectrum "
                f"stem, got {depth}"
            )
        if self.kernel_frames % 2 == 0:
            problems.append(f"kernel_frames must be odd, got {self.kernel_frames}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _token_problems(self) -> list[str]:
        problems, width = [], self.shape.width
        if self.family == "token" and width % self.num_heads:
            problems.append(
                f"width must be a multiple of num_heads = {self.num_heads}, got {width}"
            )
        if self.family == "conv_token" and TOKEN_WIDTH % self.num_heads:
            problems.append(f"num_heads must divide {TOKEN_WIDTH}, got {self.num_heads}")
        if self.family == "conv_token" and self.series_frames < PATCH_STEPS:
            problems.append(
                f"num_frames must be at least {PATCH_STEPS} for conv_token, "
                f"got {self.series_frames}"
            )
        return problems + self._crop_problems()

    def _crop_problems(self) -> list[str]:
        """Students that would hear on dev what training's crops never have."""
        crop, series = self.augment.crop_frames, self.series_frames
        if crop is None or self.family == "conv":
            return []
        if self.length == "resample":
            return [
                "augment.crop_frames must be null when length is 'resample' (a token of the "
                f"duration would never have met a whole utterance's), got {crop}"
            ]
        if self.family == "token" and crop < series:
            return [
                f"augment.crop_frames must be null or at least num_frames = {series} for token "
                f"(weights of later frames would never be trained), got {crop}"
            ]
        return []

    def _input_problems(self) -> list[str]:
        problems = []
        is_too_wide = self.augment.mel_mask_bins > self.logmel.num_mels
        if self.input == "logmel" and self.augment.mel_masks and is_too_wide:
            problems.append(
                f"augment.mel_mask_bins must be at most logmel.num_mels = {self.logmel.num_mels}, "
                f"got {self.augment.mel_mask_bins}"
            )
        if self.input == "hidden":
            augment = self.augment
            problems += [
                f"{name} must be {allowed} when input is 'hidden': its channels are no mels; "
                f"got {value!r}"
                for name, allowed, value, is_wrong in (
                    ("stem", "null or 'frames'", self.stem, self.stem == "spectrum"),
                    (
                        "augment.noise_snr_db",
                        "null",
                        augment.noise_snr_db,
                        augment.noise_snr_db is not None,
                    ),
                    ("augment.mel_shift_bins", 0, augment.mel_shift_bins, augment.mel_shift_bins),
                    ("augment.gain_db", 0, augment.gain_db, augment.gain_db),
                    ("augment.filter_db", 0, augment.filter_db, augment.filter_db),
                )
                if is_wrong
            ]
        return problems
