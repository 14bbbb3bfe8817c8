"""The corpus, its folds, and the backbone that hears it."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from serkd.config.fit import PositiveFloat
from serkd.section import Section


class Corpus(Section):
    manifest: str = Field("manifest.parquet", description="what `serkd prepare` wrote")
    more_manifests: tuple[str, ...] = Field(
        (), description="of further corpora, to train on all of them or to test across them"
    )
    max_duration_s: PositiveFloat = Field(
        30.0, le=30.0, description="longer utterances are cut to their first seconds"
    )
    trim_silence_db: PositiveFloat | None = Field(
        None,
        le=100.0,
        description="an utterance begins and ends 0.1 s from speech, which is what is so little "
        "below its loudest 25 ms; null = with all of its silence",
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


class Lora(Section):
    """Low-rank adapters (Hu et al., arXiv 2106.09685) instead of training all weights."""

    rank: int = Field(0, ge=0, description="0 = no adapters: all of the suffix is trained")
    alpha: PositiveFloat = Field(16.0, description="adapters count alpha / rank")
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    targets: Literal["attention", "feed_forward", "all"] = "attention"


class Backbone(Section):
    name: str = Field(
        "tiny-hubert", description="'tiny-hubert' (random weights), a folder or a hub name"
    )
    frozen_layers: int = Field(
        0, ge=0, description="transformer layers that are frozen with all that is below them"
    )
    layer_mix: Literal[False, True, "concat"] = Field(
        False,
        description="what heads read: the last layer, a learned mixture of layers "
        "frozen_layers..L (true), or those layers side by side (concat)",
    )
    lora: Lora = Lora()
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="of matrix products while teachers are trained; weights are float32. bfloat16 "
        "is float32 on a processor that has none",
    )
