"""One report in all its forms."""

from pathlib import Path

from serkd.files import write_text
from serkd.report.answer_figures import save_figures
from serkd.report.answer_html import render_answer
from serkd.report.block import Report
from serkd.report.latex import render_latex
from serkd.report.markdown import render_markdown


def render_all(report: Report, folder: Path) -> None:
    """report.html, report.md, report.tex and figures/."""
    write_text(folder / "report.html", render_answer(report))
    write_text(folder / "report.md", render_markdown(report))
    write_text(folder / "report.tex", render_latex(report))
    save_figures(report, folder / "figures")
