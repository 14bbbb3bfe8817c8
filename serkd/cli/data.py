"""Commands about data: doctor."""

from pathlib import Path
from typing import Annotated

import typer

from serkd.cli.options import JsonOption, QuietOption, open_console, watch
from serkd.errors import InputError
from serkd.writable import check_output


def doctor(
    manifest: Annotated[Path | None, typer.Argument(help="what `serkd prepare` wrote")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="check a backbone instead: tiny-hubert, a folder or hub name")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="write a page with pictures too")] = None,
    min_duration: Annotated[float, typer.Option(help="seconds; shorter is a warning")] = 0.5,
    max_duration: Annotated[float, typer.Option(help="seconds; longer is a warning")] = 30.0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """What is wrong with a corpus, or with how a backbone is read, before any GPU time.

    Exit code 1 when something would invalidate results.
    """
    if backbone is not None:
        if html is not None:
            raise InputError("--html must be given for a manifest, not with --backbone")
        is_sound = _check_backbone(backbone, manifest, quiet, as_json)
    elif manifest is not None:
        limits = (min_duration, max_duration)
        is_sound = _check_corpus(manifest, html, limits, quiet, as_json)
    else:
        raise InputError("doctor must be given a manifest, or a backbone with --backbone")
    if not is_sound:
        raise typer.Exit(1)


def _check_corpus(
    path: Path, html: Path | None, limits: tuple[float, float], quiet: bool, as_json: bool
) -> bool:
    import json

    from serkd.corpora.build import Limits
    from serkd.corpora.doctor import diagnose
    from serkd.corpora.examine import examine_files
    from serkd.corpora.manifest import read_manifest
    from serkd.report.doctor import Diagnosis, print_diagnosis
    from serkd.report.doctor_html import write_page

    if not 0 <= limits[0] < limits[1]:
        raise InputError(
            "--min-duration must be at least 0 and below --max-duration, got "
            f"{limits[0]:g} and {limits[1]:g}"
        )
    if html is not None:
        check_output("--html", html, path)
    manifest = read_manifest(path, is_for_learning=False)
    console = open_console()
    with watch(console, quiet or as_json) as observer:
        files = examine_files(
            manifest.utterances,
            lambda done, total: observer.progress("listen", done, total, "files"),
        )
    findings = diagnose(manifest, files, Limits(*limits))
    diagnosis = Diagnosis(path, manifest, files, findings)
    if html is not None:
        write_page(diagnosis, html)
    if as_json:
        print(json.dumps(diagnosis.record()))
    else:
        print_diagnosis(console, diagnosis)
    return diagnosis.is_sound


def _check_backbone(name: str, manifest: Path | None, quiet: bool, as_json: bool) -> bool:
    import json

    from serkd.features.selfcheck import check_backbone
    from serkd.report.selfcheck import print_check

    console = open_console()
    with watch(console, quiet or as_json) as observer:
        check = check_backbone(name, manifest, observer)
    if as_json:
        print(json.dumps(check.record()))
    else:
        print_check(console, check)
    return check.is_sound
