"""What a manifest's labels, speakers and splits say of a corpus, without its audio."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from serkd.corpora.emotions import common_name
from serkd.corpora.findings import Finding, count
from serkd.corpora.manifest import SPLITS, Manifest, Utterance, learning_problems
from serkd.corpora.protocols import SPEAKER_SHARING

_MAX_LISTED = 3
_EXCITED = ("exc", "excited", "excitement")


@dataclass(frozen=True)
class Majority:
    """What always answering train's most frequent emotion scores on a part of the corpus."""

    part: str
    emotion: str
    war: float
    uar: float
    wf1: float


def check_composition(manifest: Manifest) -> list[Finding]:
    """Everything that can be said without the audio."""
    parts = split_parts(manifest.utterances)
    return [
        *(Finding("error", "too_little", problem) for problem in learning_problems(manifest)),
        *_speakers_across_splits(manifest.utterances),
        *_speakers_with_two_genders(manifest.utterances),
        *_names_alike(manifest.utterances),
        *_missing_splits(parts),
        *_missing_classes(manifest, parts),
        *_unknown_genders(manifest.utterances),
        *_majority_note(manifest),
        *_vote_findings(manifest),
        *_exclusions(manifest),
    ]


def split_parts(utterances: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """The utterances of each official split that has any."""
    parts: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    for utterance in utterances:
        if utterance.split:
            parts[utterance.split].append(utterance)
    return {split: part for split, part in parts.items() if part}


def _ids(utterances: Iterable[Utterance]) -> tuple[str, ...]:
    return tuple(utterance.utt_id for utterance in utterances)


def _by_speaker(utterances: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    groups: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        groups[utterance.speaker_id].append(utterance)
    return dict(sorted(groups.items()))


def _speakers_across_splits(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    by_design: dict[str, list[Utterance]] = {}
    for speaker, spoken in _by_speaker(u for u in utterances if u.split).items():
        splits = list(split_parts(spoken))
        if len(splits) < 2:
            continue
        if all(u.corpus in SPEAKER_SHARING for u in spoken):
            by_design[speaker] = spoken
            continue
        message = f"speaker {speaker} is in {' and '.join(splits)}: splits must share no speaker"
        yield Finding("error", "speaker_in_splits", message, _ids(spoken))
    if by_design:
        yield Finding(
            "warning",
            "speaker_in_splits",
            f"the official splits share {count(len(by_design), 'speaker')} by design: results on "
            "them are speaker-dependent",
            _ids(u for spoken in by_design.values() for u in spoken),
        )


def _speakers_with_two_genders(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    for speaker, spoken in _by_speaker(utterances).items():
        genders = sorted({u.gender for u in spoken})
        if len(genders) > 1:
            message = (
                f"speaker {speaker} is {' and '.join(genders)}: a speaker must have one gender"
            )
            yield Finding("error", "two_genders", message, _ids(spoken))


def _names_alike(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    """What may be one speaker or one emotion under two spellings."""
    for kind, name_of, danger in (
        ("speaker", lambda u: u.speaker_id, "one person's clips can be on both sides of a split"),
        ("emotion", lambda u: u.emotion, "one emotion is two classes"),
    ):
        spellings: dict[tuple[str, str], set[str]] = defaultdict(set)
        for utterance in utterances:
            spellings[utterance.corpus, _plain(name_of(utterance))].add(name_of(utterance))
        for names in (found for found in spellings.values() if len(found) > 1):
            listed = " and ".join(repr(name) for name in sorted(names))
            message = f"{kind}s {listed} differ in spelling only: if they are the same, {danger}"
            ids = _ids(u for u in utterances if name_of(u) in names)
            yield Finding("warning", f"{kind}s_alike", message, ids)


def _plain(name: str) -> str:
    """Without case, kind of separator, leading zeros and ways of encoding accents."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\s_-]+", " ", folded))


def _missing_splits(parts: dict[str, list[Utterance]]) -> Iterator[Finding]:
    if parts and (absent := [split for split in SPLITS if split not in parts]):
        message = f"the official split has no {' and no '.join(absent)}"
        yield Finding("error" if "train" in absent else "warning", "missing_split", message)


def _missing_classes(manifest: Manifest, parts: dict[str, list[Utterance]]) -> Iterator[Finding]:
    for split, part in parts.items():
        if absent := sorted(set(manifest.class_names) - {u.emotion for u in part}):
            yield Finding(
                "error" if split == "train" else "warning",
                "missing_class",
                f"the official {split} split has no {', '.join(absent)}",
                _ids(u for u in manifest.utterances if u.emotion in absent),
            )


def _unknown_genders(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    unknown = [u for u in utterances if u.gender == "unknown"]
    if unknown:
        speakers = count(len({u.speaker_id for u in unknown}), "speaker")
        message = f"gender is unknown for {count(len(unknown))} of {speakers}"
        yield Finding("note", "unknown_gender", message, _ids(unknown))


def compute_majority(manifest: Manifest) -> list[Majority]:
    """Per official split, or over the corpus where it has none.

    The emotion is train's most frequent one (of equals the first by name). With its share p of a
    part, WAR = p, WF1 = p · 2p / (1 + p), and UAR is one over the number of emotions that occur.
    """
    parts = split_parts(manifest.utterances) or {"all": list(manifest.utterances)}
    learned = [u.emotion for u in parts.get("train", manifest.utterances)]
    if not learned:
        return []
    emotion = max(sorted(set(learned)), key=learned.count)
    found = []
    for name, part in parts.items():
        share = sum(u.emotion == emotion for u in part) / len(part)
        uar = 1 / len({u.emotion for u in part}) if share else 0.0
        found.append(Majority(name, emotion, share, uar, share * 2 * share / (1 + share)))
    return found


def _majority_note(manifest: Manifest) -> Iterator[Finding]:
    if found := compute_majority(manifest):
        scores = (
            f"WAR {100 * m.war:.2f}, UAR {100 * m.uar:.2f}, WF1 {100 * m.wf1:.2f} on {m.part}"
            for m in found
        )
        message = f"always answering {found[0].emotion} scores {'; '.join(scores)}"
        yield Finding("note", "majority", message)


def label_votes(utterance: Utterance, class_names: Iterable[str]) -> dict[str, int]:
    """Annotators by emotion, categories under the names of `class_names` where they have one.

    Where a corpus has no class for excitement, it is happiness, as in IEMOCAP's four classes.
    """
    names = {common_name(name): name for name in class_names}
    votes: dict[str, int] = defaultdict(int)
    for category, voters in utterance.votes:
        is_merged = category in _EXCITED and not names.keys() & set(_EXCITED)
        common = "happy" if is_merged else common_name(category)
        votes[names.get(common, category)] += voters
    return dict(votes)


def compute_agreement(manifest: Manifest) -> dict[str, float]:
    """Per emotion the mean share of votes that its utterances' label has, where votes are known."""
    shares: dict[str, list[float]] = defaultdict(list)
    for utterance in manifest.utterances:
        votes = label_votes(utterance, manifest.class_names)
        if total := sum(votes.values()):
            shares[utterance.emotion].append(votes.get(utterance.emotion, 0) / total)
    return {emotion: sum(found) / len(found) for emotion, found in sorted(shares.items())}


def _vote_findings(manifest: Manifest) -> Iterator[Finding]:
    against = []
    for utterance in manifest.utterances:
        votes = label_votes(utterance, manifest.class_names)
        if votes and votes.get(utterance.emotion, 0) < max(votes.values()):
            against.append(utterance)
    if against:
        message = f"{count(len(against))} with a label that is not what most annotators heard"
        yield Finding("warning", "label_against_votes", message, _ids(against))
    if agreement := compute_agreement(manifest):
        shares = ", ".join(f"{emotion} {share:.2f}" for emotion, share in agreement.items())
        yield Finding("note", "agreement", f"mean share of votes for the label: {shares}")


def _exclusions(manifest: Manifest) -> Iterator[Finding]:
    if manifest.excluded:
        first = "; ".join(manifest.excluded[:_MAX_LISTED])
        more = " ..." if len(manifest.excluded) > _MAX_LISTED else ""
        message = f"`serkd prepare` left out {count(len(manifest.excluded))}: {first}{more}"
        yield Finding("note", "excluded", message)
