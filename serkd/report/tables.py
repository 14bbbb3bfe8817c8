"""Tables of what models reached."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

_METRICS = ("uar", "war", "wf1")


def results_table(results: Mapping[str, Any]) -> Table:
    """UAR, WAR and WF1 in percent: every fold of a model, their mean and sd, and all pooled.

    The mean and sd are of the folds' figures; pooled are those of all folds' utterances together.
    """
    split = results["split"]
    speakers = "speakers of train too" if results["shares_speakers"] else "unseen speakers"
    table = Table(title=f"{split}: percent, {speakers}", title_justify="left")
    table.add_column("model")
    table.add_column("fold")
    for header in (*(name.upper() for name in _METRICS), "utterances", "parameters"):
        table.add_column(header, justify="right")
    for model in results["models"]:
        folds = results["folds"]
        for fold, found in folds.items():
            size = f"{found['parameters'][model]:,}"
            _add_row(table, model, fold, found[model][split], size)
        if len(folds) > 1:
            _add_spread(table, model, results["pooled"][model][split])
        table.add_section()
    return table


def _add_row(table: Table, model: str, fold: str, metrics: Mapping[str, Any], size: str) -> None:
    count = int(np.sum(metrics["confusion"]))
    table.add_row(model, fold, *_percent([metrics[n] for n in _METRICS]), f"{count:,}", size)


def _add_spread(table: Table, model: str, pooled: Mapping[str, Any]) -> None:
    for name in ("mean", "sd"):
        cells = _percent([pooled[f"{metric}_{name}"] for metric in _METRICS])
        table.add_row(model, f"{name} of folds", *cells, "", "")
    _add_row(table, model, "pooled", pooled, "")


def _percent(values: Sequence[float]) -> list[str]:
    return [f"{100 * value:.1f}" for value in values]
