"""Arms of a comparison: runs of one experiment with several seeds, and their confusion counts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serkd.errors import InputError, refuse
from serkd.report.bootstrap import speaker_confusions
from serkd.report.predictions import Predictions, read_predictions
from serkd.storage.sync import open_folder

_SAME = {
    "corpus_hash": "corpus (utterances and their samples)",
    "protocol": "protocol",
    "folds_hash": "folds (which utterances are train, dev and test)",
    "class_names": "emotions",
}
# seeds may differ; where the corpus is may too, since its hash does not
_MAY_DIFFER = {"seed", "corpus.manifest", "corpus.more_manifests"}
_COMPARED = ("fold", "utt_id", "speaker_id", "emotion")


@dataclass(frozen=True)
class Arm:
    """One or more runs that differ in their seed alone."""

    name: str
    runs: tuple[Predictions, ...]

    @property
    def facts(self) -> Mapping[str, Any]:
        """What its files say of the data they were made from."""
        return self.runs[0].facts

    @property
    def folds(self) -> list[str]:
        """In the protocol's order."""
        present = set(self.runs[0].table["fold"].to_pylist())
        return [name for name in self.facts["num_train"] if name in present]

    def models(self) -> set[str]:
        """Those that all of its runs have."""
        return set.intersection(*(set(run.table["model"].to_pylist()) for run in self.runs))


def read_arms(texts: Sequence[str], split: str) -> list[Arm]:
    """Arms as users write them: the folder of a run, or several with commas between.

    Raises:
        InputError: a folder without predictions of the split, one that is named twice, runs of an
            arm that differ in more than their seed, or runs on other data than the first.
    """
    listed = [_split_folders(text) for text in texts]
    _check_once([folder for folders in listed for folder in folders])
    arms = [
        Arm(_arm_name(folders), tuple(read_predictions(folder, split) for folder in folders))
        for folders in listed
    ]
    first, *rest = (run for arm in arms for run in arm.runs)
    refuse([problem for run in rest for problem in _other_data(run, first)])
    refuse([problem for arm in arms for problem in _not_one_experiment(arm)])
    names = [arm.name for arm in arms]
    return [  # runs in several storages may share a name: then as they were given
        Arm(text, arm.runs) if names.count(arm.name) > 1 else arm
        for arm, text in zip(arms, texts, strict=True)
    ]


def _split_folders(text: str) -> list[Path]:
    if Path(text).is_dir():
        return [Path(text)]
    return [open_folder(part) for part in text.split(",") if part] or [Path(text)]


def _check_once(folders: Sequence[Path]) -> None:
    resolved = [folder.resolve() for folder in folders]
    if repeated := sorted({str(f) for f in resolved if resolved.count(f) > 1}):
        raise InputError(f"every run must be named once, repeated: {', '.join(repeated)}")


def _arm_name(folders: Sequence[Path]) -> str:
    first = folders[0].resolve().name
    return first if len(folders) == 1 else f"{first} and {len(folders) - 1} more"


def _other_data(run: Predictions, first: Predictions) -> list[str]:
    """The first thing in which a run's data differ: what follows from it says nothing new."""
    for fact, what in _SAME.items():
        own, other = run.facts[fact], first.facts[fact]
        if own != other:
            return [
                f"{run.folder}: must have the {what} of {first.folder}: {_say(other)}, "
                f"got {_say(own)}"
            ]
    own, other = (sorted(set(each.table["fold"].to_pylist())) for each in (run, first))
    if own != other:
        return [
            f"{run.folder}: must have the folds that {first.folder} ran: {_say(other)}, "
            f"got {_say(own)}"
        ]
    return []


def _say(value: str | list[str]) -> str:
    return value[:20] if isinstance(value, str) else ", ".join(value)


def _not_one_experiment(arm: Arm) -> list[str]:
    settings = [dict(_leaves(run.facts["experiment"])) for run in arm.runs]
    names = sorted(set.union(*(set(each) for each in settings)) - _MAY_DIFFER)
    if different := [n for n in names if any(s.get(n) != settings[0].get(n) for s in settings)]:
        return [
            f"the runs of an arm must differ in their seed alone, those of {arm.name} differ in "
            f"{', '.join(different)}"
        ]
    seeds = [each["seed"] for each in settings]
    if len(set(seeds)) < len(seeds):
        return [f"the runs of an arm must have seeds of their own, {arm.name} has {seeds}"]
    return []


def _leaves(section: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def choose_model(arms: Sequence[Arm], model: str | None) -> str:
    """`model`, or without one the student where every arm has it, else the teacher.

    Raises:
        InputError: an arm that lacks it.
    """
    wanted = [model] if model else ["student", "teacher"]
    for name in wanted:
        if all(name in arm.models() for arm in arms):
            return name
    lacking = "; ".join(
        f"{arm.name} has {', '.join(sorted(arm.models())) or 'none'}"
        for arm in arms
        if not arm.models() >= set(wanted)
    )
    raise InputError(f"every run must have the {' or the '.join(wanted)}: {lacking}")


def count_arm(arm: Arm, reference: Arm, model: str) -> np.ndarray:
    """Confusion counts (S, J, G, C, C): seeds, folds, speakers, true and predicted classes.

    Folds are in the protocol's order, speakers in that of their names.

    Raises:
        InputError: a run that has other utterances, labels or speakers than the reference.
    """
    first = reference.runs[0]
    expected = _columns(first, model)
    speakers, speaker = np.unique(expected["speaker_id"], return_inverse=True)
    classes = {name: i for i, name in enumerate(reference.facts["class_names"])}
    labels = np.array([classes[name] for name in expected["emotion"]])
    of_fold = [expected["fold"] == name for name in reference.folds]
    counts = []
    for run in arm.runs:
        found = _columns(run, model)
        if any(not np.array_equal(found[name], expected[name]) for name in _COMPARED):
            raise InputError(
                f"{run.folder}: must have predicted the utterances of {first.folder}, of the same "
                "speakers and with the same labels"
            )
        said = np.array([classes[name] for name in found["predicted"]])
        size = (len(speakers), len(classes))
        counts.append([speaker_confusions(labels[f], said[f], speaker[f], *size) for f in of_fold])
    return np.array(counts)


def _columns(run: Predictions, model: str) -> dict[str, np.ndarray]:
    """The model's rows by fold and utterance, whatever order they were written in."""
    rows = [row for row in run.table.drop_columns(["logits"]).to_pylist() if row["model"] == model]
    rows.sort(key=lambda row: (row["fold"], row["utt_id"]))
    return {name: np.array([row[name] for row in rows]) for name in (*_COMPARED, "predicted")}
