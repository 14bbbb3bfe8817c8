"""The tables of a report as plain text; HTML, Markdown and LaTeX write the same ones."""

from collections.abc import Callable, Mapping
from typing import Any

from serkd.report.block import Block, Report, number, percent
from serkd.report.compare_tables import probability, with_interval
from serkd.report.run_blocks import (
    cost_block,
    failures_block,
    published_block,
    stopping_block,
    test_block,
)

MARKS = {"helps": "▲", "hurts": "▼", "equivalent": "=", "undecided": "?"}


def label(row: Mapping[str, Any]) -> str:
    """An arm's name, with those of arms that are the same experiment."""
    return f"{row['name']} (= {', '.join(row['also'])})" if row["also"] else str(row["name"])


def verdict(row: Mapping[str, Any]) -> str:
    """Of an arm; the reference has none."""
    if row["row"] == 0:
        return "reference"
    test = row["against_reference"]
    return f"{MARKS[test['verdict']]} {test['verdict']}" if test else "not yet"


def arms_block(report: Report) -> Block:
    """The main table."""
    found = report["comparison"]
    metric = found["metric"].upper()
    head = (
        "#",
        "arm",
        "verdict",
        f"{metric} ± sd",
        "Δ folds [95 %]",
        "Δ speakers [95 %]",
        "p Holm",
        "sign flips p",
        "d_z",
        "detectable",
        "parameters",
        "cells",
    )
    notes = [
        f"{metric} in percent, mean and sd of folds; differences in points. Seeds are averaged "
        "within a fold and folds are paired with the reference's (Δ folds: corrected t, Nadeau & "
        "Bengio 2003); Δ speakers is of all folds' utterances together, speakers are resampled; "
        f"equivalence margin {100 * found['margin']:g} points.",
        *(f"{note[0].upper()}{note[1:]}." for note in found["notes"]),
    ]
    return Block(
        "arms", "Arms", head, tuple(_arm_row(row) for row in found["arms"]), 3, tuple(notes)
    )


def _arm_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    spread = "" if row["sd"] is None else f" ± {100 * row['sd']:.1f}"
    test = row.get("against_reference")
    tested = ("–",) * 6
    if test:
        tested = (
            with_interval(test["difference"], test["fold_test"]["interval"]),
            with_interval(test["pooled_difference"], test["speaker_interval"]),
            probability(test["holm_p"]),
            probability(test["sign_flip_p"]),
            number(test["effect"], "+.2f"),
            percent(test["detectable"]),
        )
    size = "–" if row["parameters"] is None else f"{row['parameters']:,}"
    cells = f"{row['num_cells']}/{row['num_planned']}"
    value = f"{percent(row['mean'])}{spread}"
    return (str(row["row"]), label(row), verdict(row), value, *tested, size, cells)


def stamp_block(report: Report) -> Block:
    """Protocol and provenance."""
    stamp = report["stamp"]
    speakers = "shared by train and dev" if stamp["shares_speakers"] else "disjoint"
    rows = [
        ("corpus", f"{', '.join(stamp['corpora'])}, {stamp['num_utterances']:,} utterances"),
        ("classes", f"{len(stamp['class_names'])}: {', '.join(stamp['class_names'])}"),
        ("protocol", f"{stamp['protocol']}, speakers {speakers}"),
        ("folds", f"{', '.join(stamp['folds'])} of {len(stamp['all_folds'])}"),
        ("seeds", ", ".join(map(str, stamp["seeds"]))),
        ("model", _model(stamp)),
        ("selection", stamp["selection"]),
        ("design", _design(report)),
        ("corpus hash", stamp["corpus_hash"][:16]),
        ("folds hash", stamp["folds_hash"][:16]),
        *([("precision", _precision(stamp))] if stamp["precisions"] else []),
        *((name, ", ".join(each)) for name, each in stamp["versions"].items()),
        ("command", stamp["command"]),
    ]
    return Block("stamp", "Protocol", ("what", "value"), tuple(rows), 2)


def _precision(stamp: Mapping[str, Any]) -> str:
    text = " and ".join(stamp["precisions"])
    return text if len(stamp["precisions"]) == 1 else f"{text}, by an arm's wish or by processor"


def _model(stamp: Mapping[str, Any]) -> str:
    family = f" ({stamp['family']} in the reference)" if stamp["model"] == "student" else ""
    return f"{stamp['model']}{family}, backbone {stamp['backbone']}"


def _design(report: Report) -> str:
    text = (
        f"{report['design']}, {len(report['comparison']['arms'])} arms, {report['num_cells']} cells"
    )
    tuned = report["retune"]
    if tuned is None:
        return text
    return f"{text}; {', '.join(tuned['keys'])} tuned with {tuned['trials']} trials in every arm"


def recall_block(report: Report) -> Block:
    """Recall of every class, all folds and seeds together."""
    names = report["stamp"]["class_names"]
    rows = [
        (label(row), *(percent(value) for value in row["per_class_recall"]))
        for row in report["comparison"]["arms"]
        if row["mean"] is not None
    ]
    return Block("recall", "Recall of each class, percent", ("arm", *names), tuple(rows))


def gender_block(report: Report) -> Block:
    """The metric by the speakers' gender."""
    found = report["comparison"]
    arms = [row for row in found["arms"] if row["mean"] is not None]
    genders = sorted({gender for row in arms for gender in row["by_gender"]})
    rows = [(label(r), *(percent(r["by_gender"].get(g)) for g in genders)) for r in arms]
    title = f"{found['metric'].upper()} by gender, percent"
    return Block("gender", title, ("arm", *genders), tuple(rows))


def factors_block(report: Report) -> Block:
    """The importance of factors, the mean of each level, and its main effect."""
    rows = []
    for factor in report["factors"]:
        for i, level in enumerate(factor["levels"]):
            first = (factor["name"], f"{100 * factor['importance']:.1f}") if i == 0 else ("", "")
            effect = level.get("against_first")
            tested = (main_effect(level), probability(effect["holm_p"])) if effect else ("–", "–")
            arms = str(level["num_arms"])
            rows.append((first[0], level["level"], percent(level["mean"]), *tested, arms, first[1]))
    head = (
        "factor",
        "level",
        "mean, percent",
        "Δ folds [95 %]",
        "p Holm",
        "arms",
        "importance, points",
    )
    note = (
        "Means are of the arms that differ in this factor alone, on the folds and seeds that all "
        "of them have finished; Δ is against the first level, folds paired, by the corrected t. "
        "Importance is the range of the means."
    )
    notes = (note,) if rows else ()
    return Block("factors", "What each key does", head, tuple(rows), 2, notes)


def main_effect(level: Mapping[str, Any]) -> str:
    """How a level differs from the first of its factor, with the interval over folds."""
    return with_interval(level["against_first"]["difference"], level["against_first"]["interval"])


def pareto_block(report: Report) -> Block:
    """The metric by size and latency."""
    rows = [
        (
            point["name"],
            "yes" if point["is_on_front"] else "no",
            percent(point["mean"]),
            f"{point['parameters']:,}",
            number(point["macs"] and point["macs"] / 1e6, ".0f"),
            number(point["latency_ms"], ".1f"),
        )
        for point in report["pareto"]
    ]
    metric = report["comparison"]["metric"].upper()
    head = ("arm", "on the front", f"{metric}, percent", "parameters", "M MACs", "latency, ms")
    return Block("pareto", "Quality for its size", head, tuple(rows), 2)


def commands_block(report: Report) -> Block:
    """How each row is had again."""
    rows = tuple((str(row["row"]), row["command"]) for row in report["comparison"]["arms"])
    return Block("commands", "Each row again", ("#", "command"), rows, 2)


BLOCKS: tuple[Callable[[Report], Block], ...] = (
    arms_block,
    recall_block,
    gender_block,
    factors_block,
    pareto_block,
    stopping_block,
    failures_block,
    cost_block,
    test_block,
    published_block,
    stamp_block,
    commands_block,
)


def all_blocks(report: Report) -> list[Block]:
    """In the order of the report; those with neither rows nor notes are left out."""
    return [block for block in (build(report) for build in BLOCKS) if block.rows or block.notes]
