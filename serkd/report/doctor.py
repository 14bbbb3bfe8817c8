"""What the doctor found, for a terminal and for programs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby, zip_longest
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serkd.corpora.composition import compute_agreement, compute_majority, split_parts
from serkd.corpora.doctor import count_formats
from serkd.corpora.examine import FileFacts
from serkd.corpora.findings import LEVELS, Finding, count, name_some
from serkd.corpora.manifest import GENDERS, Manifest, Utterance

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_MAX_MESSAGES = 5  # of one kind, on a terminal
_MAX_SPEAKERS = 30


@dataclass(frozen=True)
class Diagnosis:
    """A manifest, what its files are like, and what is wrong; `source` is the manifest's path."""

    source: Path
    manifest: Manifest
    files: Sequence[FileFacts]
    findings: Sequence[Finding]

    @property
    def is_sound(self) -> bool:
        """Whether nothing makes results wrong or impossible."""
        return not self.num_findings["error"]

    @cached_property
    def num_findings(self) -> dict[str, int]:
        """Findings of every level."""
        levels = Counter(finding.level for finding in self.findings)
        return {level: levels[level] for level in LEVELS}

    @cached_property
    def classes(self) -> list[dict[str, Any]]:
        """A row for each emotion, and their sum: utterances, share, seconds, speakers, genders."""
        utterances = self.manifest.utterances
        rows = [
            self._class_row(name, [u for u in utterances if u.emotion == name])
            for name in self.manifest.class_names
        ]
        return [*rows, self._class_row("all", utterances)]

    def _class_row(self, name: str, part: Sequence[Utterance]) -> dict[str, Any]:
        genders = Counter(u.gender for u in part)
        spoken = Counter({u.speaker_id: 0 for u in self.manifest.utterances})
        spoken.update(u.speaker_id for u in part)
        return {
            "emotion": name,
            "utterances": len(part),
            "share": len(part) / max(len(self.manifest.utterances), 1),
            "hours": sum(u.duration_s for u in part) / 3600,
            "median_s": median([u.duration_s for u in part] or [0.0]),
            "genders": {gender: genders[gender] for gender in GENDERS},
            "splits": {name: len(rows) for name, rows in split_parts(part).items()},
            "speakers": sum(n > 0 for n in spoken.values()),
            "per_speaker": [min(spoken.values(), default=0), max(spoken.values(), default=0)],
        }

    @cached_property
    def speakers(self) -> list[dict[str, Any]]:
        """A row for each speaker: gender, and utterances by emotion."""
        of: dict[tuple[str, str], Counter[str]] = {}
        for u in self.manifest.utterances:
            of.setdefault((u.gender, u.speaker_id), Counter())[u.emotion] += 1
        return [
            {
                "speaker_id": speaker,
                "gender": gender,
                "emotions": {name: emotions[name] for name in self.manifest.class_names},
            }
            for (gender, speaker), emotions in sorted(of.items())
        ]

    def busiest(self, number: int) -> tuple[list[dict[str, Any]], int]:
        """The rows of the speakers with the most utterances, and how many others there are."""
        rows = sorted(self.speakers, key=lambda row: -sum(row["emotions"].values()))
        shown = sorted(rows[:number], key=lambda row: (row["gender"], row["speaker_id"]))
        return shown, len(rows) - len(shown)

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "manifest": str(self.source),
            "is_sound": self.is_sound,
            "num_findings": self.num_findings,
            "findings": [asdict(finding) for finding in self.findings],
            "formats": [
                {"sample_rate": rate, "num_channels": channels, "utterances": number}
                for (rate, channels), number in count_formats(self.files).items()
            ],
            "classes": self.classes,
            "speakers": self.speakers,
            "majority": [asdict(found) for found in compute_majority(self.manifest)],
            "agreement": compute_agreement(self.manifest),
        }


def verdict(diagnosis: Diagnosis) -> str:
    """One line: how much there is of what."""
    numbers = diagnosis.num_findings
    parts = [count(numbers[level], level) for level in LEVELS]
    hours = diagnosis.classes[-1]["hours"]
    return (
        f"{diagnosis.source}: {', '.join(parts)} in "
        f"{count(len(diagnosis.manifest.utterances))}, {hours:.2f} h"
    )


def print_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Tables first, findings last: those are what a person came for."""
    console.print(classes_table(diagnosis))
    console.print(speakers_table(diagnosis))
    console.print(formats_table(diagnosis))
    console.print(findings_table(diagnosis.findings))
    console.print(verdict(diagnosis), soft_wrap=True, highlight=False, markup=False)


def classes_table(diagnosis: Diagnosis) -> Table:
    """Per emotion: utterances, share, hours, genders, splits, speakers."""
    rows = diagnosis.classes
    genders = [gender for gender in GENDERS if rows[-1]["genders"][gender]]
    splits = list(rows[-1]["splits"])
    table = Table(title="emotions", title_justify="left")
    table.add_column("")
    headers = ("utterances", "%", "hours", "median s", *genders, *splits, "speakers", "each")
    for name in headers:
        table.add_column(name, justify="right")
    for index, row in enumerate(rows):
        low, high = row["per_speaker"]
        table.add_row(
            Text(row["emotion"]),
            str(row["utterances"]),
            f"{100 * row['share']:.1f}",
            f"{row['hours']:.2f}",
            f"{row['median_s']:.2f}",
            *(str(row["genders"][gender]) for gender in genders),
            *(str(row["splits"].get(split, 0)) for split in splits),
            str(row["speakers"]),
            f"{low}-{high}",
            end_section=index + 2 == len(rows),
        )
    return table


def speakers_table(diagnosis: Diagnosis) -> Table:
    """Utterances by speaker and emotion, a section for each gender."""
    rows, num_more = diagnosis.busiest(_MAX_SPEAKERS)
    caption = f"and {count(num_more, 'speaker')} with fewer utterances" if num_more else None
    table = Table(title="speakers", title_justify="left", caption=caption, caption_justify="left")
    for name in ("speaker", "gender"):
        table.add_column(name)
    for name in diagnosis.manifest.class_names:
        table.add_column(Text(name), justify="right")
    for row, after in zip_longest(rows, rows[1:]):
        table.add_row(
            Text(row["speaker_id"]),
            row["gender"],
            *map(str, row["emotions"].values()),
            end_section=after is not None and after["gender"] != row["gender"],
        )
    return table


def formats_table(diagnosis: Diagnosis) -> Table:
    """Files by sample rate and channels."""
    table = Table(title="files", title_justify="left")
    for name in ("sample rate", "channels", "files"):
        table.add_column(name, justify="right")
    for (rate, channels), number in count_formats(diagnosis.files).items():
        table.add_row(f"{rate} Hz", str(channels), str(number))
    return table


def findings_table(findings: Sequence[Finding]) -> Table:
    """A row a finding; of many of one kind the first few."""
    table = Table(title="findings", title_justify="left")
    for name in ("level", "what", "", "utterances"):
        table.add_column(name, overflow="fold")
    for (level, kind), group in groupby(findings, key=lambda f: (f.level, f.kind)):
        alike = list(group)
        for finding in alike[:_MAX_MESSAGES]:
            table.add_row(
                Text(level, style=_STYLES[level]),
                kind.replace("_", " "),
                Text(finding.message),
                Text(name_some(finding.utt_ids)),
            )
        if len(alike) > _MAX_MESSAGES:
            table.add_row("", "", f"... and {len(alike) - _MAX_MESSAGES} more of this kind")
    return table
