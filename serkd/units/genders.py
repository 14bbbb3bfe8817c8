"""The gender that the unit ids of each utterance say."""

from collections.abc import Mapping, Sequence

import numpy as np

from serkd.corpora.folds import Fold
from serkd.corpora.manifest import Utterance
from serkd.gender import GENDER_SLOTS, GenderMode, InUnits


def unit_genders(in_units: InUnits, fold: Fold, seed: int) -> dict[str, int] | None:
    """Slot (0 female, 1 male) of every utterance of the manifest; None where units say none."""
    if in_units == "no":
        return None
    utterances = fold.manifest.utterances
    if in_units == "known":
        return {u.utt_id: GENDER_SLOTS[u.gender] for u in utterances}
    shuffled = shuffle_genders(utterances, fold.speakers("train"), seed)
    return {u.utt_id: shuffled[u.speaker_id] for u in utterances}


def shuffle_genders(
    utterances: Sequence[Utterance], train_speakers: set[str], seed: int
) -> dict[str, int]:
    """Slot of every speaker, dealt anew: a control whose genders mean nothing.

    Permutes over the training speakers, and over the others, so that each side has as many
    speakers of a gender as before and no speaker has two. Training speakers are dealt again if
    none got another gender.
    """
    genders = {u.speaker_id: GENDER_SLOTS[u.gender] for u in reversed(utterances)}
    rng = np.random.default_rng([seed, len("shuffled")])
    found: dict[str, int] = {}
    for side in (train_speakers, genders.keys() - train_speakers):
        speakers = sorted(side)
        before = np.array([genders[speaker] for speaker in speakers], np.int64)
        after = rng.permutation(before)
        while side is train_speakers and len(set(before)) > 1 and np.array_equal(after, before):
            after = rng.permutation(before)
        found |= dict(zip(speakers, after.tolist(), strict=True))
    return found


def gender_problems(mode: GenderMode, fold: Fold, num_frames: Mapping[str, int]) -> list[str]:
    """Why units cannot say gender in a fold; `num_frames` are a gender's training frames."""
    if mode.in_units == "no":
        return []
    utterances = fold.manifest.utterances
    unknown = sum(u.gender not in GENDER_SLOTS for u in utterances)
    if unknown:
        return [
            f"units.gender_mode must be mtl or none where a gender is unknown, got '{mode}' and "
            f"{unknown} of {len(utterances)} utterances whose gender is unknown"
        ]
    absent = [gender for gender in GENDER_SLOTS if not num_frames.get(gender)]
    if absent:
        return [
            f"units.gender_mode must be mtl or none where train has one gender, got '{mode}' and "
            f"no {absent[0]} speaker in train of fold {fold.name}"
        ]
    return []
