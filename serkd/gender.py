"""How gender takes part: the ablation switch `units.gender_mode`, and what unit ids it makes."""

from enum import StrEnum
from typing import Literal

GENDER_SLOTS = {"female": 0, "male": 1}  # what a unit id says of gender
InUnits = Literal["no", "known", "shuffled"]


class GenderMode(StrEnum):
    """Five arms around the paper's (GMP-TL, arXiv 2405.02151) multi-task one [the others ours].

    ============ ================ ============ ===============================
    mode         extractor learns k-means on   unit
    ============ ================ ============ ===============================
    `mtl`        emotion, gender  all frames   cluster
    `none`       emotion          all frames   cluster
    `joint`      emotion, gender  all frames   cluster + K · gender
    `per_gender` emotion, gender  each gender  cluster of its gender + K · gender
    `shuffled`   emotion, gender  all frames   cluster + K · a gender dealt to speakers anew
    ============ ================ ============ ===============================

    Neighbours differ in one thing: `mtl` against `none` is the second task; `joint` against `mtl`
    says gender outright, over the same clusters; `per_gender` against `joint` clusters apart; and
    `shuffled` is `joint` with as many units and a gender that means nothing. The extractor of the
    last three is that of `mtl`, so that its stages are shared; with `extractor.emotion_weight: 1`
    gender is in the units only.

    A stage declares the property that it reads (``units.gender_mode.has_task``), and modes that
    are alike in it share the stage.
    """

    mtl = "mtl"
    none = "none"
    joint = "joint"
    per_gender = "per_gender"
    shuffled = "shuffled"

    @property
    def has_task(self) -> bool:
        """Whether the extractor learns gender."""
        return self is not GenderMode.none

    @property
    def is_apart(self) -> bool:
        """Whether each gender's frames are clustered by themselves."""
        return self is GenderMode.per_gender

    @property
    def in_units(self) -> InUnits:
        """Which gender a unit's id says."""
        if self in (GenderMode.mtl, GenderMode.none):
            return "no"
        return "shuffled" if self is GenderMode.shuffled else "known"


def num_units(num_clusters: int, in_units: InUnits) -> int:
    """How many units a scale of K clusters has: K, or 2 K where ids say a gender."""
    return num_clusters * (1 if in_units == "no" else len(GENDER_SLOTS))
