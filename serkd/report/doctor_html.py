"""What the doctor found, as one page that needs nothing else: no script, no font, no network."""

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from serkd.corpora.doctor import count_formats
from serkd.corpora.findings import LEVELS, Finding, count
from serkd.corpora.manifest import GENDERS
from serkd.files import write_text
from serkd.report.doctor import Diagnosis
from serkd.report.doctor_style import STYLE
from serkd.report.page import render_html, table

_NUM_BINS = 40
_MAX_SPEAKERS = 60
_MAX_OPEN = 4  # names that are shown without a click
_WIDTH, _HEIGHT = 320, 72  # of a histogram, in its own units
_MARKS = {"error": "✕", "warning": "!", "note": "i"}


def write_page(diagnosis: Diagnosis, path: Path) -> None:
    """Write the page, all of it or nothing."""
    write_text(path, render_page(diagnosis))


def render_page(diagnosis: Diagnosis) -> str:
    """The page as text."""
    name = escape(diagnosis.source.name)
    body = f"""<h1>{name}</h1>
{_summary(diagnosis)}
{_findings(diagnosis.findings)}
<h2>Emotions</h2>
{_classes(diagnosis)}
<h2>Durations</h2>
{_durations(diagnosis)}
<h2>Speakers and emotions</h2>
{_speakers(diagnosis)}
<h2>Files</h2>
{_formats(diagnosis)}"""
    return render_html(f"serkd doctor: {diagnosis.source.name}", body, STYLE)


def _summary(diagnosis: Diagnosis) -> str:
    total = diagnosis.classes[-1]
    speakers = count(total["speakers"], "speaker")
    size = f"{count(total['utterances'])}, {speakers}, {total['hours']:.2f} h"
    tiles = "".join(
        f'<li class="{level}"><b>{diagnosis.num_findings[level]}</b> '
        f"{count(diagnosis.num_findings[level], level).partition(' ')[2]}</li>"
        for level in LEVELS
    )
    return f'<p class="size">{size}</p><ul class="tiles">{tiles}</ul>'


def _findings(findings: Sequence[Finding]) -> str:
    parts = []
    for (level, kind), group in groupby(findings, key=lambda f: (f.level, f.kind)):
        items = "".join(_finding(finding) for finding in group)
        mark = f'<span class="mark" aria-hidden="true">{_MARKS[level]}</span>'
        heading = f"<h3>{mark}{level}: {escape(kind.replace('_', ' '))}</h3>"
        parts.append(f'<section class="finding {level}">{heading}<ul>{items}</ul></section>')
    return "<h2>Findings</h2>" + ("".join(parts) or "<p>None.</p>")


def _finding(finding: Finding) -> str:
    names = ", ".join(f"<code>{escape(utt_id)}</code>" for utt_id in finding.utt_ids)
    if len(finding.utt_ids) > _MAX_OPEN:
        number = count(len(finding.utt_ids))
        names = f"<details><summary>{number}</summary><p>{names}</p></details>"
    elif names:
        names = f"<p>{names}</p>"
    return f"<li>{escape(finding.message)}{names}</li>"


def _classes(diagnosis: Diagnosis) -> str:
    rows = diagnosis.classes
    largest = max((row["share"] for row in rows[:-1]), default=1.0)
    genders = [gender for gender in GENDERS if rows[-1]["genders"][gender]]
    splits = list(rows[-1]["splits"])
    head = ["emotion", "share", "utterances", "%", "hours", *genders, *splits, "speakers", "each"]
    return table(head, (_class_cells(row, genders, splits, largest) for row in rows), 2)


def _class_cells(
    row: dict[str, Any], genders: Sequence[str], splits: Sequence[str], largest: float
) -> list[str]:
    width = 100 * row["share"] / largest
    bar = "" if row["emotion"] == "all" else f'<div class="bar" style="width:{width:.1f}%"></div>'
    low, high = row["per_speaker"]
    return [
        escape(row["emotion"]),
        bar,
        str(row["utterances"]),
        f"{100 * row['share']:.1f}",
        f"{row['hours']:.2f}",
        *(str(row["genders"][gender]) for gender in genders),
        *(str(row["splits"].get(split, 0)) for split in splits),
        str(row["speakers"]),
        f"{low}–{high}",
    ]


def _durations(diagnosis: Diagnosis) -> str:
    """A histogram for each emotion, on one scale; the few longest are in the last bar."""
    utterances = diagnosis.manifest.utterances
    seconds = np.array([u.duration_s for u in utterances])
    if not len(seconds):
        return "<p>None.</p>"
    longest = float(np.quantile(seconds, 0.995))
    edges = np.linspace(0.0, longest, _NUM_BINS + 1)
    figures = []
    for name in diagnosis.manifest.class_names:
        own = np.array([u.duration_s for u in utterances if u.emotion == name])
        counts = np.histogram(np.minimum(own, longest), edges)[0]
        figures.append(_histogram(name, own, counts, longest))
    return f'<div class="grid">{"".join(figures)}</div>'


def _histogram(name: str, seconds: np.ndarray, counts: np.ndarray, longest: float) -> str:
    step, highest = _WIDTH / len(counts), max(int(counts.max()), 1)
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{_HEIGHT * (1 - n / highest):.1f}" width="{step - 1:.1f}" '
        f'height="{_HEIGHT * n / highest:.1f}"/>'
        for i, n in enumerate(counts.tolist())
        if n
    )
    middle = float(np.median(seconds))
    label = (
        f"{escape(name)}: median {middle:.2f} s, {seconds.min():.2f} to {seconds.max():.2f} s, "
        f"at most {highest} in a bar of {longest / len(counts):.2f} s"
    )
    marker = min(middle / longest, 1.0) * _WIDTH
    return (
        f"<figure><figcaption><b>{escape(name)}</b> median {middle:.2f} s, "
        f"{seconds.min():.2f}–{seconds.max():.2f} s</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 2}" role="img" aria-label="{label}">{bars}'
        f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>'
        f'<line class="median" x1="{marker:.1f}" x2="{marker:.1f}" y1="0" y2="{_HEIGHT}"/></svg>'
        f'<div class="ticks"><span>0 s</span><span>{longest / 2:.1f} s</span>'
        f"<span>{longest:.1f} s and more</span></div></figure>"
    )


def _speakers(diagnosis: Diagnosis) -> str:
    """Utterances by speaker and emotion; the colour is the number's share of the largest."""
    shown, more = diagnosis.busiest(_MAX_SPEAKERS)
    largest = max((n for row in shown for n in row["emotions"].values()), default=1)

    def cell(number: int) -> str:
        share = 70 * number / max(largest, 1)
        return f'<span class="heat" style="--share:{share:.0f}%">{number}</span>'

    shown_table = table(
        ["speaker", "gender", *(escape(name) for name in diagnosis.manifest.class_names)],
        (
            [escape(row["speaker_id"]), row["gender"], *map(cell, row["emotions"].values())]
            for row in shown
        ),
        2,
    )
    return shown_table + (
        f"<p>and {count(more, 'speaker')} with fewer utterances</p>" if more else ""
    )


def _formats(diagnosis: Diagnosis) -> str:
    formats = count_formats(diagnosis.files).items()
    rows = ([f"{rate} Hz", str(channels), str(number)] for (rate, channels), number in formats)
    return table(["sample rate", "channels", "files"], rows)
