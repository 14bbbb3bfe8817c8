"""A fold: train, dev and test of one split, which share no speaker and hide the test labels."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from serkd.corpora.manifest import Manifest
from serkd.errors import InputError, refuse

PARTS = ("train", "dev", "test")


@dataclass(frozen=True)
class Fold:
    """Utterance ids of one split, and a manifest that knows no label of `test`.

    This is all that code that trains or searches is given. It cannot be built when two parts share
    an utterance, or, unless `shares_speakers`, a speaker.
    """

    name: str
    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]
    manifest: Manifest
    shares_speakers: bool = False  # a corpus's official split that was made that way

    def __post_init__(self) -> None:
        refuse(self._overlaps() or self._class_problems())
        object.__setattr__(self, "manifest", self.manifest.seal(self.test))

    def part(self, name: str) -> tuple[str, ...]:
        """The utterances of train, dev or test."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[name]

    def speakers(self, part: str) -> set[str]:
        """Who speaks in train, dev or test."""
        return {self.manifest.by_id[utt_id].speaker_id for utt_id in self.part(part)}

    def _overlaps(self) -> list[str]:
        problems = [
            f"fold {self.name}: {part} must not be empty" for part in PARTS if not self.part(part)
        ]
        for first, second in (("train", "dev"), ("train", "test"), ("dev", "test")):
            speakers = self.speakers(first) & self.speakers(second)
            utterances = set(self.part(first)) & set(self.part(second))
            if speakers and not self.shares_speakers:
                what, both = "speaker", speakers
            else:
                what, both = "utterance", utterances
            if both:
                problems.append(
                    f"fold {self.name}: {first} and {second} must share no {what}, "
                    f"both have {_some(sorted(both))}"
                )
        return problems

    def _class_problems(self) -> list[str]:
        present = {self.manifest.by_id[utt_id].emotion for utt_id in self.train}
        absent = sorted(set(self.manifest.class_names) - present)
        if not absent:
            return []
        return [f"fold {self.name}: train must have every emotion, it has no {', '.join(absent)}"]

    @cached_property
    def train_hash(self) -> str:
        """Changes with which utterances a model is fitted on and what it learns of them."""
        return self.manifest.label_hash(self.train)

    @cached_property
    def dev_hash(self) -> str:
        return self.manifest.label_hash(self.dev)

    @cached_property
    def split_hash(self) -> str:
        """Changes with which utterances are train, dev and test."""
        return hash_lines(f"{part}\t{id_}" for part in PARTS for id_ in sorted(self.part(part)))

    @cached_property
    def test_hash(self) -> str:
        """Changes with which utterances are test, whatever is trained on."""
        return hash_lines(sorted(self.test))


def hash_lines(lines: Iterable[str]) -> str:
    """SHA-256 of some lines of text."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def hash_folds(folds: Sequence[Fold]) -> str:
    """Changes with any part of any fold."""
    return hash_lines(f"{fold.name}\t{fold.split_hash}" for fold in folds)


def _some(names: Sequence[str]) -> str:
    rest = len(names) - 10
    return ", ".join(names[:10]) + (f" and {rest} more" if rest > 0 else "")


def select_folds(folds: Sequence[Fold], choice: str) -> list[Fold]:
    """`choice` is a fold's name or "all"."""
    if choice == "all":
        return list(folds)
    chosen = [fold for fold in folds if fold.name == choice]
    if not chosen:
        names = ", ".join(fold.name for fold in folds)
        raise InputError(f"--fold must be one of {names} or all, got {choice!r}")
    return chosen
