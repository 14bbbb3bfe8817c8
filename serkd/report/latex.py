"""A report's tables for a paper: LaTeX with booktabs."""

import re

from serkd.report.block import Block, Report
from serkd.report.blocks import all_blocks

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
    "–": "--",
    "Δ": r"$\Delta$",
    "[": "{[}",  # after \\ a bracket would be its argument
    "]": "{]}",
}
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")


def escape(text: str) -> str:
    """Any text as LaTeX sets it."""
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))


def render_latex(report: Report) -> str:
    r"""All tables; a paper needs `\usepackage{booktabs,amssymb}` and UTF-8, as LaTeX has by now."""
    head = [
        r"% \usepackage{booktabs,amssymb,textcomp}  \usepackage[T1]{fontenc}",
        *(["% PARTIAL: cells are missing"] if report["is_partial"] else []),
    ]
    return "\n".join([*head, *(_table(b) for b in all_blocks(report) if b.rows)]) + "\n"


def _table(block: Block) -> str:
    columns = "".join("l" if i < block.num_words else "r" for i in range(len(block.head)))
    body = "\n".join(_line(row) for row in block.rows)
    caption = " ".join([f"{block.title.rstrip('.')}.", *block.notes])
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{_numbers(escape(caption))}}}\n\\label{{tab:{block.name}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
        f"{_line(block.head)}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}"
    )


def _line(cells: tuple[str, ...]) -> str:
    return " & ".join(_numbers(escape(cell)) for cell in cells) + r" \\"


def _numbers(text: str) -> str:
    """A hyphen before a number is a minus sign."""
    return _MINUS.sub("$-$", text)
