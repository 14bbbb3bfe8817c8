"""The command that writes a trained model for other programs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serkd.cli.options import JsonOption, RunArgument, open_console
from serkd.writable import check_folder


class Format(StrEnum):
    """Who reads the folder."""

    transformers = "transformers"


def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", help="new folder")],
    fold: Annotated[str | None, typer.Option(help="of the run; default its first")] = None,
    kind: Annotated[Format, typer.Option("--format", help="who reads it")] = Format.transformers,
    as_json: JsonOption = False,
) -> None:
    """Write a run's teacher as a folder that transformers loads without serkd."""
    import json

    check_folder("--out", out.absolute().parent, out)
    from serkd.report.export import export_teacher

    done = export_teacher(run, out, fold)
    if as_json:
        print(json.dumps(done))
        return
    console = open_console()
    console.print(f"teacher      fold {done['fold']} of {run}", soft_wrap=True, highlight=False)
    console.print(f"classes      {', '.join(done['class_names'])}", soft_wrap=True)
    console.print(f"{kind:<12} {out}", soft_wrap=True, highlight=False)
    load = f'pipeline("audio-classification", model="{out}", trust_remote_code=True)'
    console.print(f"load it      {load}", soft_wrap=True, highlight=False, markup=False)
