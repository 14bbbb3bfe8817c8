"""What a corpus and its folds hold, as tables."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from serkd.corpora.folds import PARTS, Fold
from serkd.corpora.manifest import GENDERS, SPLITS, Manifest, Utterance


def _hours(utterances: Sequence[Utterance]) -> str:
    return f"{sum(u.duration_s for u in utterances) / 3600:.2f}"


def _columns(manifest: Manifest) -> dict[str, list[Utterance]]:
    """The official splits where there are any, then all utterances."""
    parts = {s: [u for u in manifest.utterances if u.split == s] for s in SPLITS}
    return {name: part for name, part in parts.items() if part} | {"all": [*manifest.utterances]}


def manifest_summary(manifest: Manifest) -> Table:
    """Utterances by class, gender and official split, with speakers and hours."""
    columns = _columns(manifest)
    table = Table(title="utterances", title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")

    def add(label: str, cells: Sequence[object], *, ends: bool = False) -> None:
        table.add_row(Text(label), *(str(cell) for cell in cells), end_section=ends)

    parts = list(columns.values())
    for index, emotion in enumerate(manifest.class_names):
        counts = [sum(u.emotion == emotion for u in part) for part in parts]
        add(emotion, counts, ends=index + 1 == len(manifest.class_names))
    add("utterances", [len(part) for part in parts])
    add("hours", [_hours(part) for part in parts], ends=True)
    for gender in GENDERS:
        speakers = [len({u.speaker_id for u in part if u.gender == gender}) for part in parts]
        if any(speakers):
            add(f"speakers, {gender}", speakers)
    return table


def describe_parts(manifest: Manifest, folds: Sequence[Fold]) -> list[dict[str, Any]]:
    """A row for each part of each fold; the manifest has all labels, which are only counted."""
    rows = []
    for fold in folds:
        train_samples = {manifest.by_id[utt_id].sha256 for utt_id in fold.train}
        for part in PARTS:
            utterances = [manifest.by_id[utt_id] for utt_id in fold.part(part)]
            genders = {u.speaker_id: u.gender for u in utterances}
            counts = Counter(u.emotion for u in utterances)
            rows.append(
                {
                    "fold": fold.name,
                    "part": part,
                    "utterances": len(utterances),
                    "hours": sum(u.duration_s for u in utterances) / 3600,
                    "speakers": dict(Counter(genders.values())),
                    "speakers_also_in_train": (
                        0 if part == "train" else len(fold.speakers("train") & set(genders))
                    ),
                    "copies_of_train": (
                        0 if part == "train" else sum(u.sha256 in train_samples for u in utterances)
                    ),
                    "classes": {name: counts[name] for name in manifest.class_names},
                }
            )
    return rows


def folds_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The rows of `describe_parts`."""
    table = Table(title=title, title_justify="left")
    table.add_column("fold")
    table.add_column("part")
    leaks = {"speakers_also_in_train": "in train\ntoo", "copies_of_train": "copies\nof train"}
    leaks = {key: header for key, header in leaks.items() if any(row[key] for row in rows)}
    headers = ["utter-\nances", "hours", "speakers\nf/m/?", *leaks.values()]
    for header in (*headers, *rows[0]["classes"]):
        table.add_column(Text(header), justify="right")
    for row in rows:
        speakers = "/".join(str(row["speakers"].get(gender, 0)) for gender in GENDERS)
        cells = [row["utterances"], f"{row['hours']:.2f}", speakers]
        cells += [row[key] for key in leaks]
        cells += row["classes"].values()
        name = row["fold"] if row["part"] == "train" else ""
        table.add_row(name, row["part"], *map(str, cells), end_section=row["part"] == "test")
    return table
