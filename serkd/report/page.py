"""Pages that need nothing else: no script, no font, no network."""

from collections.abc import Iterable, Sequence
from html import escape


def render_html(title: str, body: str, style: str) -> str:
    """A page; `title` is text, `body` HTML."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{style}</style></head><body><main>
{body}
</main></body></html>
"""


def table(head: Iterable[str], rows: Iterable[Sequence[str]], num_words: int = 1) -> str:
    """Cells are HTML; the first `num_words` columns are words, the others numbers."""

    def line(cells: Iterable[str], tag: str) -> str:
        kinds = (
            ("th" if i == 0 else tag, "" if i < num_words else ' class="n"') for i in range(99)
        )
        return "".join(f"<{t}{c}>{cell}</{t}>" for cell, (t, c) in zip(cells, kinds, strict=False))

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{line(head, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
