"""A report as Markdown."""

import re
from collections.abc import Sequence

from serkd.report.block import Block, Report
from serkd.report.blocks import all_blocks

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def escape(text: str) -> str:
    """What Markdown, or HTML inside it, would take for its own is shown as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def render_markdown(report: Report) -> str:
    """The whole report."""
    parts = [f"# {escape(report['name'])}", escape(report["question"])]
    if report["is_partial"]:
        parts.append(f"**Partial: {report['num_done']} of {report['num_cells']} cells.**")
    parts += [_block(block) for block in all_blocks(report)]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    parts = [f"## {escape(block.title)}"]
    if block.rows:
        kinds = [":--" if i < block.num_words else "--:" for i in range(len(block.head))]
        lines = [_line(map(escape, block.head)), _line(kinds)]
        parts.append("\n".join([*lines, *(_line(map(escape, row)) for row in block.rows)]))
    return "\n\n".join([*parts, *map(escape, block.notes)])


def _line(cells: Sequence[str] | map) -> str:
    return f"| {' | '.join(cells)} |"
