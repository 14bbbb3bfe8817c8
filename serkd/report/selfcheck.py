"""How a backbone is read, as a table."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serkd.features.selfcheck import CHECKS, MAX_RELATIVE, MUST_AGREE, SelfCheck


def print_check(console: Console, check: SelfCheck) -> None:
    """The largest differences by layer, what they are of, and one sentence."""
    console.print(differences_table(check))
    for way in _ways(check):
        console.print(f"{_header(way):<16} {CHECKS[way]}", soft_wrap=True, highlight=False)
    console.print(check.verdict(), soft_wrap=True, highlight=False)


def _ways(check: SelfCheck) -> list[str]:
    return [way for way in CHECKS if any(d.check == way for d in check.differences)]


def _header(way: str) -> str:
    return way.replace("_", " ")


def differences_table(check: SelfCheck) -> Table:
    """Per layer and way of reading the worst frame's difference by the RMS of the reference."""
    lengths = ", ".join(f"{seconds:.2f}" for seconds in check.seconds)
    title = f"{check.backbone.name}: worst frame's difference / RMS, utterances of {lengths} s"
    table = Table(title=title, title_justify="left")
    table.add_column("layer", justify="right")
    for way in _ways(check):
        table.add_column(_header(way), justify="right")
    for layer in range(check.backbone.num_layers + 1):
        table.add_row(str(layer), *(_cell(check, way, layer) for way in _ways(check)))
    return table


def _cell(check: SelfCheck, way: str, layer: int) -> Text:
    values = [d.relative for d in check.differences if (d.check, d.layer) == (way, layer)]
    if not values:
        return Text("")
    is_wrong = way in MUST_AGREE and not max(values) <= MAX_RELATIVE
    return Text(f"{max(values):.1e}", style="bold red" if is_wrong else "")
