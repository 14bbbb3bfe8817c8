"""What a corpus and its folds hold, as tables."""

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

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
        table.add_row(label, *(str(cell) for cell in cells), end_section=ends)

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


def count_classes(utterances: Sequence[Utterance]) -> dict[str, int]:
    """Utterances of each emotion."""
    return dict(sorted(Counter(u.emotion for u in utterances).items()))
