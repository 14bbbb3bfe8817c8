"""Protocols: how a corpus is divided into folds whose train, dev and test share no speaker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from serkd.config import Protocol
from serkd.corpora.manifest import Manifest
from serkd.errors import InputError, refuse


@dataclass(frozen=True)
class Fold:
    """Utterance ids of one split. Cannot be built when two parts share a speaker."""

    name: str
    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]
    manifest: Manifest

    def __post_init__(self) -> None:
        parts = {"train": self.train, "dev": self.dev, "test": self.test}
        speakers = {part: self._speakers(ids) for part, ids in parts.items()}
        problems = [
            f"fold {self.name}: {p} must not be empty" for p, s in speakers.items() if not s
        ]
        for first, second in (("train", "dev"), ("train", "test"), ("dev", "test")):
            shared = sorted(speakers[first] & speakers[second])
            if shared:
                problems.append(
                    f"fold {self.name}: {first} and {second} must share no speaker, "
                    f"both have {', '.join(shared)}"
                )
        refuse(problems or self._class_problems())

    def _speakers(self, utt_ids: Sequence[str]) -> set[str]:
        return {self.manifest.by_id[utt_id].speaker_id for utt_id in utt_ids}

    def _class_problems(self) -> list[str]:
        present = {self.manifest.by_id[utt_id].emotion for utt_id in self.train}
        absent = sorted(set(self.manifest.class_names) - present)
        if not absent:
            return []
        return [f"fold {self.name}: train must have every emotion, it has no {', '.join(absent)}"]

    @cached_property
    def sealed(self) -> Manifest:
        """The manifest without test labels: all that training and searching code sees."""
        return self.manifest.seal(self.test)

    @cached_property
    def train_hash(self) -> str:
        return self.manifest.label_hash(self.train)

    @cached_property
    def dev_hash(self) -> str:
        return self.manifest.label_hash(self.dev)


def build_folds(protocol: Protocol, manifest: Manifest, seed: int) -> list[Fold]:
    """All folds of a protocol; fold i tests on group i and selects on group i - 1, cyclically.

    Raises:
        InputError: the speakers do not fit the protocol (see `Fold`).
    """
    groups = _GROUPS[protocol.name](protocol, manifest, seed)
    return [_rotate(groups, i, manifest) for i in range(len(groups))]


def _rotate(groups: Sequence[Sequence[str]], i: int, manifest: Manifest) -> Fold:
    part_of = dict.fromkeys(groups[i - 1], "dev") | dict.fromkeys(groups[i], "test")
    parts: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for utterance in manifest.utterances:
        parts[part_of.get(utterance.speaker_id, "train")].append(utterance.utt_id)
    train, dev, test = (tuple(parts[part]) for part in ("train", "dev", "test"))
    return Fold(str(i + 1), train, dev, test, manifest)


def _speaker_genders(manifest: Manifest) -> dict[str, str]:
    return {u.speaker_id: u.gender for u in manifest.utterances}


def _given_or_balanced(protocol: Protocol, manifest: Manifest, seed: int) -> list[list[str]]:
    speakers = _speaker_genders(manifest)
    if protocol.folds is not None:
        _check_given(protocol.folds, set(speakers))
        return [list(fold) for fold in protocol.folds]
    if protocol.num_folds > len(speakers):
        raise InputError(
            f"protocol.num_folds must be at most the number of speakers = {len(speakers)}, "
            f"got {protocol.num_folds}"
        )
    return balanced_groups(speakers, protocol.num_folds, seed)


def balanced_groups(genders: dict[str, str], num_folds: int, seed: int) -> list[list[str]]:
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


def _one_each(protocol: Protocol, manifest: Manifest, seed: int) -> list[list[str]]:
    return [[speaker] for speaker in sorted(_speaker_genders(manifest))]


_GROUPS: dict[str, Callable[[Protocol, Manifest, int], list[list[str]]]] = {
    "speaker_kfold": _given_or_balanced,
    "leave_one_speaker_out": _one_each,
}


def select_folds(folds: Sequence[Fold], choice: str) -> list[Fold]:
    """`choice` is a fold's name or "all"."""
    if choice == "all":
        return list(folds)
    chosen = [fold for fold in folds if fold.name == choice]
    if not chosen:
        names = ", ".join(fold.name for fold in folds)
        raise InputError(f"--fold must be one of {names} or all, got {choice!r}")
    return chosen
