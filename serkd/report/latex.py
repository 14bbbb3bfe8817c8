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
# a wide table in smaller letters
_FIT = (
    r"\providecommand{\fit}[1]{\sbox0{#1}"
    r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi}"
)
_MINUS = re.compile(r"(?<![\w.-])-(?=\d)")


def escape(text: str) -> str:
    """Any text as LaTeX sets it."""
    parts = " ".join(text.split()).split("--")  # two hyphens would be a dash
    return "-{}-".join("".join(_SPECIAL.get(letter, letter) for letter in part) for part in parts)


def render_latex(report: Report) -> str:
    r"""All tables, for `\input`; none is wider than the text. The first line has what they need."""
    head = [
        r"% \usepackage{array,booktabs,graphicx,amssymb,textcomp}  \usepackage[T1]{fontenc}",
        _FIT,
        *(["% PARTIAL: cells are missing"] if report["is_partial"] else []),
    ]
    return "\n".join([*head, *(_table(b) for b in all_blocks(report) if b.rows)]) + "\n"


def _table(block: Block) -> str:
    columns = "".join("l" if i < block.num_words else "r" for i in range(len(block.head)))
    if block.num_words == len(block.head):  # the last one has sentences or commands
        columns = columns[:-1] + r">{\raggedright\arraybackslash}p{0.75\linewidth}"
    body = "\n".join(_line(row) for row in block.rows)
    caption = " ".join([f"{block.title.rstrip('.')}.", *block.notes])
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{_numbers(escape(caption))}}}\n\\label{{tab:{block.name}}}\n"
        f"\\fit{{\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
        f"{_line(block.head)}\n\\midrule\n{body}\n"
        "\\bottomrule\n\\end{tabular}}\n\\end{table}"
    )


def _line(cells: tuple[str, ...]) -> str:
    return " & ".join(_numbers(escape(cell)) for cell in cells) + r" \\"


def _numbers(text: str) -> str:
    """A hyphen before a number is a minus sign."""
    return _MINUS.sub("$-$", text)
