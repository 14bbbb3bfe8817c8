"""Protocols: how a corpus is divided into train, dev and test.

Those that divide speakers deal them into groups; fold i tests on group i and selects on group
i - 1, cyclically, so every speaker is tested once and selected on once.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from serkd.config import Corpus, Protocol
from serkd.corpora.emotions import common_name
from serkd.corpora.folds import Fold
from serkd.corpora.manifest import SPLITS, Manifest, make_manifest, read_manifest
from serkd.errors import InputError, refuse

Parts = Mapping[str, str]  # utt_id or speaker_id to train, dev or test
# corpora whose own split has the same people everywhere: results on it are speaker-dependent
SPEAKER_SHARING = frozenset({"meld"})


def read_folds(corpus: Corpus, protocol: Protocol) -> list[Fold]:
    """The folds of a corpus under a protocol: all that training and searching code is given.

    Raises:
        InputError: no such manifest, or the corpus does not fit the protocol.
    """
    return build_folds(protocol, read_corpus(corpus, protocol))


def read_corpus(corpus: Corpus, protocol: Protocol) -> Manifest:
    """The utterances that a protocol divides, *with* all labels: for describing and testing.

    Several manifests become one, in which ids and speakers are qualified by the corpus. For
    `cross_corpus`, emotions get their common names, and only those that training and test corpora
    have are kept.
    """
    first, more = read_manifest(Path(corpus.manifest)), map(Path, corpus.more_manifests)
    manifest = _join([first, *map(read_manifest, more)]) if corpus.more_manifests else first
    return _shared_labels(protocol, manifest) if protocol.name == "cross_corpus" else manifest


def _join(manifests: Sequence[Manifest]) -> Manifest:
    rows = [
        replace(u, utt_id=f"{u.corpus}/{u.utt_id}", speaker_id=f"{u.corpus}/{u.speaker_id}")
        for manifest in manifests
        for u in manifest.utterances
    ]
    joined = make_manifest(rows, [line for m in manifests for line in m.excluded])
    if len(joined.by_id) != len(rows):
        raise InputError("corpus.more_manifests must be of other corpora, an utterance is in two")
    return joined


def describe_labels(corpus: Corpus, protocol: Protocol) -> list[str]:
    """What `cross_corpus` makes of each corpus's emotions, a line each."""
    kept, own = read_corpus(corpus, protocol).class_names, _own_names(protocol)
    manifests = map(read_manifest, map(Path, (corpus.manifest, *corpus.more_manifests)))
    counts = Counter((u.corpus, u.emotion) for m in manifests for u in m.utterances)
    lines = []
    for (name, emotion), number in sorted(counts.items()):
        common = common_name(emotion, own)
        how = f"is {common}" if common in kept else "is left out, the other side has none"
        lines.append(f"{name}: {emotion} ({number}) {how}")
    return lines


def _own_names(protocol: Protocol) -> dict[str, str]:
    return dict(pair.split("=") for pair in protocol.labels)


def _shared_labels(protocol: Protocol, manifest: Manifest) -> Manifest:
    corpora = {u.corpus for u in manifest.utterances}
    if unknown := sorted(set(protocol.test_corpora) - corpora):
        raise InputError(
            f"protocol.test_corpora must name corpora of the manifests "
            f"({', '.join(sorted(corpora))}), got {', '.join(unknown)}"
        )
    if not corpora - set(protocol.test_corpora):
        raise InputError("protocol.test_corpora must leave a corpus to train on, it names all")
    own = _own_names(protocol)
    rows = [replace(u, emotion=common_name(u.emotion, own)) for u in manifest.utterances]
    tested = {u.emotion for u in rows if u.corpus in protocol.test_corpora}
    shared = tested & {u.emotion for u in rows if u.corpus not in protocol.test_corpora}
    if len(shared) < 2:
        raise InputError(
            "cross_corpus must find at least two emotions that training and test corpora share, "
            f"got {', '.join(sorted(shared)) or 'none'}; name them with protocol.labels"
        )
    return make_manifest([u for u in rows if u.emotion in shared], manifest.excluded)


def build_folds(protocol: Protocol, manifest: Manifest) -> list[Fold]:
    """All folds of a protocol, named from 1.

    Raises:
        InputError: the utterances do not fit the protocol (see `Fold`).
    """
    return _PROTOCOLS[protocol.name](protocol, manifest)


def _make_fold(
    name: str, part_of: Callable[[str], str], manifest: Manifest, *, shares_speakers: bool = False
) -> Fold:
    parts: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for utterance in manifest.utterances:
        parts[part_of(utterance.utt_id)].append(utterance.utt_id)
    train, dev, test = (tuple(ids) for ids in parts.values())
    return Fold(name, train, dev, test, manifest, shares_speakers)


def _fold_of_speakers(index: int, part_of: Parts, manifest: Manifest) -> Fold:
    """Speakers that `part_of` does not name are train."""

    def part(utt_id: str) -> str:
        return part_of.get(manifest.by_id[utt_id].speaker_id, "train")

    return _make_fold(str(index + 1), part, manifest)


def _rotate(groups: Sequence[Sequence[str]], manifest: Manifest) -> list[Fold]:
    return [
        _fold_of_speakers(
            i, dict.fromkeys(groups[i - 1], "dev") | dict.fromkeys(group, "test"), manifest
        )
        for i, group in enumerate(groups)
    ]


def _speaker_kfold(protocol: Protocol, manifest: Manifest) -> list[Fold]:
    genders = {u.speaker_id: u.gender for u in manifest.utterances}
    if protocol.folds is not None:
        _check_given(protocol.folds, set(genders))
        return _rotate(protocol.folds, manifest)
    return _rotate(_deal(protocol, genders), manifest)


def _deal(protocol: Protocol, genders: Mapping[str, str]) -> list[list[str]]:
    if protocol.num_folds > len(genders):
        raise InputError(
            f"protocol.num_folds must be at most the number of speakers = {len(genders)}, "
            f"got {protocol.num_folds}"
        )
    return balanced_groups(genders, protocol.num_folds, protocol.seed)


def balanced_groups(genders: Mapping[str, str], num_folds: int, seed: int) -> list[list[str]]:
    """Deal the speakers of each gender, shuffled, over the folds in turn."""
    rng = np.random.default_rng(seed)
    dealt = []
    for gender in sorted(set(genders.values())):
        members = sorted(s for s, g in genders.items() if g == gender)
        dealt += [members[i] for i in rng.permutation(len(members))]
    return [sorted(dealt[i::num_folds]) for i in range(num_folds)]


def _check_given(folds: Sequence[Sequence[str]], speakers: set[str]) -> None:
    listed = [speaker for fold in folds for speaker in fold]
    problems = []
    if len(folds) < 3:
        problems.append(f"protocol.folds must list at least three folds, got {len(folds)}")
    if repeated := sorted({s for s in listed if listed.count(s) > 1}):
        problems.append(f"protocol.folds must list a speaker once, repeated: {', '.join(repeated)}")
    if unknown := sorted(set(listed) - speakers):
        problems.append(
            f"protocol.folds must list speakers of the manifest, unknown: {', '.join(unknown)} "
            f"(it has {', '.join(sorted(speakers))})"
        )
    if missing := sorted(speakers - set(listed)):
        problems.append(f"protocol.folds must list every speaker, missing: {', '.join(missing)}")
    refuse(problems)


def _leave_one_session_out(protocol: Protocol, manifest: Manifest) -> list[Fold]:
    sessions = _sessions(manifest)
    if unnamed := sorted(speaker for speaker, session in sessions.items() if not session):
        raise InputError(
            "leave_one_session_out must know the session of every utterance, it does not for "
            f"speakers {', '.join(unnamed[:10])}"
        )
    names = sorted(set(sessions.values()))
    if len(names) < 3:
        raise InputError(
            "leave_one_session_out must have at least three sessions (train, dev, test), "
            f"got {', '.join(names)}"
        )
    groups = [[s for s, session in sessions.items() if session == name] for name in names]
    return _rotate(groups, manifest)


def _sessions(manifest: Manifest) -> dict[str, str]:
    """The session of each speaker, in order of the speakers' names.

    Raises:
        InputError: somebody speaks in two sessions.
    """
    found: dict[str, set[str]] = {}
    for utterance in manifest.utterances:
        found.setdefault(utterance.speaker_id, set()).add(utterance.session)
    wandering = sorted(speaker for speaker, sessions in found.items() if len(sessions) > 1)
    refuse(
        [
            f"a speaker must speak in one session, {speaker} does in "
            f"{', '.join(sorted(found[speaker]))}"
            for speaker in wandering[:10]
        ]
    )
    return {speaker: found[speaker].pop() for speaker in sorted(found)}


def _leave_one_speaker_out(protocol: Protocol, manifest: Manifest) -> list[Fold]:
    """Dev is one speaker of another session: partners of a dialogue share room and microphones.

    Speakers without a session were recorded alone. Everyone is dev once where sessions are of one
    size: the order goes round the sessions, and dev is the nearest one back that qualifies.
    """
    sessions: dict[str, set[str]] = {}
    for utterance in manifest.utterances:
        own = utterance.session or f"\0{utterance.speaker_id}"
        sessions.setdefault(utterance.speaker_id, set()).add(own)
    ordered = _around_sessions(sessions)
    dev_of = {}
    for i, speaker in enumerate(ordered):
        before = [*reversed(ordered[:i]), *reversed(ordered[i + 1 :])]
        elsewhere = [other for other in before if not sessions[other] & sessions[speaker]]
        if not elsewhere:
            raise InputError(
                "leave_one_speaker_out must have a dev speaker from another session than test "
                f"speaker {speaker}, but everybody speaks in {', '.join(sorted(sessions[speaker]))}"
            )
        dev_of[speaker] = elsewhere[0]
    return [
        _fold_of_speakers(i, {speaker: "test", dev_of[speaker]: "dev"}, manifest)
        for i, speaker in enumerate(sorted(sessions))
    ]


def _around_sessions(sessions: Mapping[str, set[str]]) -> list[str]:
    """The first speaker of each session, then the second of each, ..."""
    seen: dict[str, int] = {}
    places = {}
    for speaker in sorted(sessions):
        session = min(sessions[speaker])
        turn = 0 if session.startswith("\0") else seen.get(session, 0)
        seen[session] = turn + 1
        places[speaker] = (turn, speaker if session.startswith("\0") else session)
    return sorted(places, key=places.__getitem__)


def _official(protocol: Protocol, manifest: Manifest) -> list[Fold]:
    """The corpus's own split, one fold."""
    if missing := set(SPLITS) - {u.split for u in manifest.utterances}:
        raise InputError(
            "official must have utterances of train, dev and test in the manifest's split, "
            f"it has none of {', '.join(name for name in SPLITS if name in missing)}"
        )
    if unnamed := [u.utt_id for u in manifest.utterances if not u.split]:
        raise InputError(
            f"official must know the split of every utterance, it does not of {len(unnamed)}: "
            f"{', '.join(unnamed[:10])}"
        )
    shares = {u.corpus for u in manifest.utterances} <= SPEAKER_SHARING
    part_of = {u.utt_id: u.split for u in manifest.utterances}
    return [_make_fold("1", part_of.__getitem__, manifest, shares_speakers=shares)]


def _cross_corpus(protocol: Protocol, manifest: Manifest) -> list[Fold]:
    """Test is whole corpora; dev is one of `num_folds` groups of the other corpora's speakers."""
    genders = {
        u.speaker_id: u.gender for u in manifest.utterances if u.corpus not in protocol.test_corpora
    }
    part_of = dict.fromkeys(_deal(protocol, genders)[0], "dev")
    tested = {u.speaker_id for u in manifest.utterances} - set(genders)
    return [_fold_of_speakers(0, part_of | dict.fromkeys(tested, "test"), manifest)]


_PROTOCOLS: dict[str, Callable[[Protocol, Manifest], list[Fold]]] = {
    "speaker_kfold": _speaker_kfold,
    "leave_one_speaker_out": _leave_one_speaker_out,
    "leave_one_session_out": _leave_one_session_out,
    "official": _official,
    "cross_corpus": _cross_corpus,
}
