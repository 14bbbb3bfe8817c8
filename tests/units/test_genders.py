"""Gender modes: one contract for all, and the shuffled control."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.corpora.manifest import Manifest
from serkd.corpora.protocols import build_folds
from serkd.gender import GENDER_SLOTS, GenderMode, num_units
from serkd.units.genders import gender_problems, shuffle_genders, unit_genders


@pytest.fixture(scope="module")
def fold(tiny: Experiment, manifest: Manifest) -> Fold:
    return build_folds(tiny.protocol, manifest)[0]


@pytest.mark.parametrize("mode", GenderMode)
def test_a_unit_gives_back_its_cluster_and_its_gender(fold: Fold, mode: GenderMode) -> None:
    """Of all modes: ids fill 0 .. num_units - 1, and cluster + K · slot can be undone."""
    num_clusters = 5
    genders = unit_genders(mode.in_units, fold, seed=0)
    slots = {0} if genders is None else set(genders.values())
    ids = {cluster + num_clusters * slot: (cluster, slot) for cluster in range(5) for slot in slots}
    assert sorted(ids) == list(range(num_units(num_clusters, mode.in_units)))
    assert all(ids[unit] == divmod(unit, num_clusters)[::-1] for unit in ids)
    if genders is not None:
        assert set(genders) == set(fold.manifest.by_id)


@pytest.mark.parametrize("mode", [GenderMode.joint, GenderMode.per_gender])
def test_known_genders_are_those_of_the_manifest(fold: Fold, mode: GenderMode) -> None:
    found = unit_genders(mode.in_units, fold, seed=0)
    assert found == {u.utt_id: GENDER_SLOTS[u.gender] for u in fold.manifest.utterances}


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_genders_belong_to_speakers_and_keep_their_counts(fold: Fold, seed: int) -> None:
    utterances = fold.manifest.utterances
    found = unit_genders("shuffled", fold, seed)
    known = unit_genders("known", fold, seed)
    assert found is not None
    assert known is not None
    assert found == unit_genders("shuffled", fold, seed)
    of_speaker = {(u.speaker_id, found[u.utt_id]) for u in utterances}
    before = {(u.speaker_id, known[u.utt_id]) for u in utterances}
    assert len(of_speaker) == len({u.speaker_id for u in utterances})  # one each
    train = fold.speakers("train")
    for is_train in (True, False):
        counts = [
            Counter(slot for speaker, slot in pairs if (speaker in train) == is_train)
            for pairs in (of_speaker, before)
        ]
        assert counts[0] == counts[1]
    assert any(found[utt_id] != known[utt_id] for utt_id in fold.train)


def test_seeds_deal_differently(manifest: Manifest) -> None:
    dealt = {tuple(shuffle_genders(manifest.utterances, set(), seed).items()) for seed in range(30)}
    assert len(dealt) > 5


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_women=st.integers(0, 4))
def test_any_mixture_of_training_speakers_can_be_shuffled(
    manifest: Manifest, seed: int, num_women: int
) -> None:
    speakers = sorted({u.speaker_id for u in manifest.utterances})[:4]
    rows = [
        replace(u, gender="female" if speakers.index(u.speaker_id) < num_women else "male")
        for u in manifest.utterances
        if u.speaker_id in speakers
    ]
    found = shuffle_genders(rows, set(speakers), seed)
    assert sum(slot == GENDER_SLOTS["female"] for slot in found.values()) == num_women
    before = [GENDER_SLOTS["female" if i < num_women else "male"] for i in range(4)]
    assert (list(found.values()) == before) == (num_women in (0, 4))


@pytest.mark.parametrize("mode", GenderMode)
def test_an_unknown_gender_is_refused_where_ids_say_one(
    fold: Fold, manifest: Manifest, mode: GenderMode
) -> None:
    both = {"female": 9, "male": 9}
    assert gender_problems(mode, fold, both) == []
    first = manifest.utterances[0].speaker_id
    rows = [
        replace(u, gender="unknown") if u.speaker_id == first else u for u in manifest.utterances
    ]
    unknown = replace(fold, manifest=Manifest(tuple(rows), manifest.class_names))
    found = gender_problems(mode, unknown, both)
    if mode.in_units == "no":
        assert found == []
    else:
        assert found == [
            f"units.gender_mode must be mtl or none where a gender is unknown, got '{mode}' and "
            "8 of 48 utterances whose gender is unknown"
        ]


@pytest.mark.parametrize("mode", GenderMode)
def test_one_gender_in_train_is_refused_where_ids_say_one(fold: Fold, mode: GenderMode) -> None:
    found = gender_problems(mode, fold, {"male": 9})
    assert bool(found) == (mode.in_units != "no")
    assert all("no female speaker in train of fold 1" in problem for problem in found)


def test_modes_that_say_no_gender_have_the_ids_of_their_clusters(fold: Fold) -> None:
    for mode in (GenderMode.mtl, GenderMode.none):
        assert unit_genders(mode.in_units, fold, seed=0) is None
        assert num_units(64, mode.in_units) == 64
    for mode in (GenderMode.joint, GenderMode.per_gender, GenderMode.shuffled):
        assert num_units(64, mode.in_units) == 128
