"""A comparison as a person sees it."""

import json
import string
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_MOST_FOLDS = 10  # more have no room in a line
_MOST_SEEDED_FOLDS = 6  # nor these beside the column of deviations
_STYLES = {"helps": "bold green", "hurts": "bold red", "equivalent": "bold", "undecided": "dim"}


def print_comparison(console: Console, found: Mapping[str, Any], *, as_json: bool) -> None:
    """What every arm reached, its difference from the reference, and what limits both."""
    if as_json:
        print(json.dumps(found))
        return
    console.print(values_table(found))
    console.print(differences_table(found))
    num_folds, size = len(found["folds"]), f"{found['num_utterances']:,} utterances"
    test = f"corrected t over {num_folds} folds (Nadeau-Bengio)" if num_folds > 1 else "speakers'"
    lines = [
        f"p: {test}, Holm's over {len(found['arms']) - 1} comparison(s)",
        f"margin {100 * found['margin']:g} points; {size} of {found['num_speakers']} speaker(s)",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
    for note in found["notes"]:
        console.print(f"note: {note}", soft_wrap=True, highlight=False)


def values_table(found: Mapping[str, Any]) -> Table:
    """Percent per fold, their mean and sd, of all utterances together, and sd by its source."""
    title = f"{found['model']}, {found['split']}: {found['metric'].upper()} in percent"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("run", overflow="fold")
    seeded = any(arm["components"] for arm in found["arms"])
    most = _MOST_SEEDED_FOLDS if seeded else _MOST_FOLDS
    folds = found["folds"] if 1 < len(found["folds"]) <= most else []
    for header in (*folds, "mean ± sd", "pooled", *(("fold / seed / rest sd",) if seeded else ())):
        table.add_column(header, justify="right", no_wrap=True)
    for number, arm in enumerate(found["arms"]):
        spread = "" if arm["sd"] is None else f" ± {100 * arm['sd']:.1f}"
        cells = [f"{100 * arm['by_fold'][fold]:.1f}" for fold in folds]
        cells += [f"{100 * arm['mean']:.1f}{spread}", f"{100 * arm['pooled']:.1f}"]
        cells += [_components(arm)] if seeded else []
        table.add_row(_letter(number), Text(arm["name"]), *cells)
    return table


def _letter(number: int) -> str:
    """A, B, ..., Z, A1, B1, ...: names of runs are too long for two tables."""
    return f"{string.ascii_uppercase[number % 26]}{number // 26 or ''}"


def _components(arm: Mapping[str, Any]) -> str:
    if arm["components"] is None:
        return ""
    return " / ".join(
        f"{100 * arm['components'][f'{n}_sd']:.1f}" for n in ("fold", "seed", "residual")
    )


def differences_table(found: Mapping[str, Any]) -> Table:
    """Points against the first run, with intervals, tests and verdicts."""
    table = Table(title="difference from A, in points", title_justify="left")
    table.add_column("")
    smallest = found["smallest_sign_flip_p"]
    headers = (
        "mean of folds\n[95 %, corrected t]",
        "pooled\n[95 %, speakers]",
        "p",
        "p Holm",
        f"sign flips\n(least {probability(smallest)})",
        "effect\n(d_z)",
        "detectable\n(80 %)",
    )
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for number, arm in enumerate(found["arms"][1:], start=1):
        test = arm["against_reference"]
        table.add_row(
            _letter(number),
            with_interval(test["difference"], test["fold_test"]["interval"]),
            with_interval(test["pooled_difference"], test["speaker_interval"]),
            probability(test["p"]),
            probability(test["holm_p"]),
            probability(test["sign_flip_p"]),
            "-" if test["effect"] is None else f"{test['effect']:+.2f}",
            "-" if test["detectable"] is None else f"{100 * test['detectable']:.1f}",
            Text(test["verdict"], style=_STYLES[test["verdict"]]),
        )
    return table


def with_interval(value: float, interval: Sequence[float | None]) -> str:
    low, high = interval
    if low is None or high is None:
        return f"{100 * value:+.1f} [-]"
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def probability(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"
