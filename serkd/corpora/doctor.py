"""What is wrong with a corpus, before any GPU time."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from scipy.stats import chi2_contingency

from serkd.corpora.build import Limits
from serkd.corpora.composition import check_composition
from serkd.corpora.examine import SILENT_PEAK, FileFacts
from serkd.corpora.findings import Finding, Level, count, name_some, worst_first
from serkd.corpora.fingerprint import HOP_S, Match, find_matches
from serkd.corpora.manifest import Manifest, Utterance

LIMITS = Limits(min_s=0.5, max_s=30.0)
# Unclipped speech has none, in 8 bits and mu-law neither; cutting 3 dB off its peaks leaves this
# much in half of the clips, 6 dB in nearly all.
MAX_FLAT_SHARE = 5e-4
_TRAP_P = 1e-3  # of a chi-squared test
_TRAP_STRENGTH = 0.1  # Cramér's V, 0 to 1


def diagnose(
    manifest: Manifest, files: Sequence[FileFacts], limits: Limits = LIMITS
) -> list[Finding]:
    """All findings, the worst first; `files` are the facts of the utterances, in their order."""
    rows = manifest.utterances
    assert [file.utt_id for file in files] == [u.utt_id for u in rows]
    copies = _exact_copies(rows, files)
    return worst_first(
        [
            *_unusable(rows, files),
            *(_exact_duplicate(group) for group in copies),
            *_near_duplicates(rows, files, copies),
            *_unlike_speech(files),
            *_durations(rows, limits),
            *_mixed_formats(rows, files),
            *check_composition(manifest),
        ]
    )


def _unusable(rows: Sequence[Utterance], files: Sequence[FileFacts]) -> Iterator[Finding]:
    if missing := [file.utt_id for file in files if file.is_missing]:
        message = f"{count(len(missing))} without a file, the first is {_path(rows, missing[0])}"
        yield Finding("error", "missing", message, tuple(missing))
    for file in files:
        if file.problem and not file.is_missing:
            yield Finding("error", "unreadable", file.problem, (file.utt_id,))
    changed = [
        row.utt_id
        for row, file in zip(rows, files, strict=True)
        if not file.problem and file.sha256 != row.sha256
    ]
    if changed:
        message = (
            f"{count(len(changed))} changed since the manifest was written, the first is "
            f"{_path(rows, changed[0])}"
        )
        yield Finding("error", "changed", message, tuple(changed))


def _path(rows: Sequence[Utterance], utt_id: str) -> str:
    return next(row.path for row in rows if row.utt_id == utt_id)


def _exact_copies(
    rows: Sequence[Utterance], files: Sequence[FileFacts]
) -> list[tuple[Utterance, ...]]:
    """Groups of utterances whose samples are the same."""
    groups: dict[str, list[Utterance]] = defaultdict(list)
    for row, file in zip(rows, files, strict=True):
        groups[file.sha256 or row.sha256].append(row)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _leak(group: Sequence[Utterance]) -> str:
    """What separates utterances that are the same recording, when they must not be separated."""
    reasons = []
    if len({u.speaker_id for u in group}) > 1:
        reasons.append("of different speakers")
    if len(splits := {u.split for u in group} - {""}) > 1:
        reasons.append(f"in {' and '.join(sorted(splits))}")
    return ", ".join(reasons)


def _exact_duplicate(group: Sequence[Utterance]) -> Finding:
    emotions = sorted({u.emotion for u in group})
    reasons = [_leak(group), f"labelled {' and '.join(emotions)}" if len(emotions) > 1 else ""]
    why = ", ".join(reason for reason in reasons if reason)
    utt_ids = tuple(u.utt_id for u in group)
    message = f"{name_some(utt_ids)} are the same samples"
    if why:
        return Finding("error", "duplicate", f"{message}, {why}", utt_ids)
    return Finding("warning", "duplicate", message, utt_ids)


def _near_duplicates(
    rows: Sequence[Utterance], files: Sequence[FileFacts], copies: Sequence[Sequence[Utterance]]
) -> Iterator[Finding]:
    """Of exact copies the first stands for all."""
    repeated = {u.utt_id for group in copies for u in group[1:]}
    places = [i for i, row in enumerate(rows) if row.utt_id not in repeated]
    for match in find_matches([files[i].codes for i in places]):
        pair = (rows[places[match.first]], rows[places[match.second]])
        yield _near_duplicate(pair, match)


def _near_duplicate(pair: tuple[Utterance, Utterance], match: Match) -> Finding:
    first, second = pair
    emotions = "" if first.emotion == second.emotion else f"{first.emotion} and {second.emotion}"
    at = match.offset_frames * HOP_S
    where = f"{second.utt_id} from {-at:.2f} s" if at < 0 else f"{first.utt_id} from {at:.2f} s"
    seconds, wrong = match.num_frames * HOP_S, 100 * match.error_rate
    message = (
        f"{first.utt_id} and {second.utt_id} are the same recording: {seconds:.2f} s of sound "
        f"agree ({where}, {wrong:.0f} % of the bits differ)"
    )
    leak = _leak(pair)
    tail = "".join([f", {leak}" if leak else "", f", labelled {emotions}" if emotions else ""])
    level: Level = "error" if leak else "warning"
    return Finding(level, "near_duplicate", message + tail, (first.utt_id, second.utt_id))


def _unlike_speech(files: Sequence[FileFacts]) -> Iterator[Finding]:
    usable = [file for file in files if not file.problem]
    if silent := tuple(file.utt_id for file in usable if file.peak < SILENT_PEAK):
        decibels = 20 * np.log10(SILENT_PEAK)
        message = f"{count(len(silent))} silent: no peak above {decibels:.0f} dBFS"
        yield Finding("warning", "silent", message, silent)
    if clipped := tuple(file.utt_id for file in usable if file.flat_share > MAX_FLAT_SHARE):
        message = (
            f"{count(len(clipped))} clipped: over {100 * MAX_FLAT_SHARE:g} % of the samples are in "
            "flat tops"
        )
        yield Finding("warning", "clipped", message, clipped)


def _durations(rows: Sequence[Utterance], limits: Limits) -> Iterator[Finding]:
    short = tuple(row.utt_id for row in rows if row.duration_s < limits.min_s)
    long = tuple(row.utt_id for row in rows if row.duration_s > limits.max_s)
    for kind, utt_ids, rule in (
        ("too_short", short, f"under {limits.min_s:g} s"),
        ("too_long", long, f"over {limits.max_s:g} s"),
    ):
        if utt_ids:
            yield Finding("warning", kind, f"{count(len(utt_ids))} {rule}", utt_ids)


def count_formats(files: Iterable[FileFacts]) -> dict[tuple[int, int], int]:
    """Files by (sample rate in Hz, channels), the most frequent first."""
    formats = Counter((f.sample_rate, f.num_channels) for f in files if not f.problem)
    return dict(formats.most_common())


def _mixed_formats(rows: Sequence[Utterance], files: Sequence[FileFacts]) -> Iterator[Finding]:
    formats = count_formats(files)
    if len(formats) < 2:
        return
    usable = [(row, f) for row, f in zip(rows, files, strict=True) if not f.problem]
    kinds = [f"{f.sample_rate} Hz x {f.num_channels}" for _, f in usable]
    labellings: dict[str, Callable[[Utterance], str]] = {
        "emotion": lambda row: row.emotion,
        "split": lambda row: row.split,
        "gender": lambda row: row.gender,
    }
    traps = []
    for name, of in labellings.items():
        strength = _association(kinds, [of(row) for row, _ in usable])
        if strength >= _TRAP_STRENGTH:
            traps.append(f"the {name} (Cramér's V {strength:.2f})")
    counts = ", ".join(f"{rate} Hz x {ch}: {n}" for (rate, ch), n in formats.items())
    message = f"sample rates and channels are mixed ({counts})"
    if traps:
        message += f" and go with {' and '.join(traps)}: a model can hear the format instead"
    common = next(iter(formats))
    other = [row.utt_id for row, f in usable if (f.sample_rate, f.num_channels) != common]
    yield Finding("warning", "mixed_formats", message, tuple(other))


def _association(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """Cramér's V of two labellings, 0 when they may well be independent."""
    rows, columns = (np.unique(names, return_inverse=True) for names in (ours, theirs))
    if min(len(rows[0]), len(columns[0])) < 2:
        return 0.0
    table = np.zeros((len(rows[0]), len(columns[0])))
    np.add.at(table, (rows[1], columns[1]), 1)
    test = chi2_contingency(table, correction=False)
    if test.pvalue > _TRAP_P:
        return 0.0
    return float(np.sqrt(test.statistic / (table.sum() * (min(table.shape) - 1))))
