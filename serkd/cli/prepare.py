"""``serkd prepare``: a corpus on disk to a manifest; one command a corpus."""

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from serkd.cli.options import QuietOption, open_console, watch
from serkd.errors import InputError
from serkd.writable import check_folder, check_output

if TYPE_CHECKING:
    from serkd.corpora.build import Limits, Listing

prepare = typer.Typer(no_args_is_help=True, help="Turn a corpus on disk into a manifest.")


class OnBad(StrEnum):
    """What to do with audio that cannot be used."""

    refuse = "refuse"
    exclude = "exclude"


class Classes(StrEnum):
    """IEMOCAP's sets of classes."""

    four = "4"
    four_without_excited = "4-no-exc"
    five = "5"
    six = "6"


class Subset(StrEnum):
    """IEMOCAP's kinds of dialog."""

    all = "all"
    improvised = "improvised"
    scripted = "scripted"


class Labels(StrEnum):
    """MELD's two annotations."""

    emotion = "emotion"
    sentiment = "sentiment"


OutOption = Annotated[Path, typer.Option("--out", help="manifest to write (.parquet)")]
OnBadOption = Annotated[
    OnBad, typer.Option(help="unreadable, empty or too short audio: stop, or leave it out")
]
AllowMissingOption = Annotated[
    bool, typer.Option("--allow-missing", help="use what there is of an incomplete release")
]
Scan = Callable[[Callable[[int, int], None]], "Listing"]


def _write_manifest(
    scan: Scan, out: Path, on_bad: OnBad, quiet: bool, limits: "Limits | None" = None
) -> None:
    """Scan, measure and write; what was measured outlives an interruption."""
    from serkd.corpora.build import Limits, build_manifest
    from serkd.corpora.manifest import learning_problems, write_manifest
    from serkd.report.corpus import manifest_summary

    console = open_console()
    check_output("--out", out)
    journal = out.with_name(f".{out.name}.measured")
    check_output("--out", journal)
    with watch(console, quiet) as observer:
        start = monotonic()
        listing = scan(lambda done, total: observer.progress("scan", done, total, "files"))
        manifest = build_manifest(
            listing,
            on_bad=on_bad.value,
            limits=limits or Limits(),
            journal=journal,
            progress=lambda done, total: observer.progress("read", done, total, "files"),
        )
        seconds = monotonic() - start
    for problem in manifest.excluded:
        print(f"excluded: {problem}", file=sys.stderr)
    write_manifest(manifest, out)
    journal.unlink(missing_ok=True)
    for note in (*listing.notes, *learning_problems(manifest)):
        print(f"note: {note}", file=sys.stderr)
    if not quiet:
        console.print(manifest_summary(manifest))
    hours = sum(u.duration_s for u in manifest.utterances) / 3600
    speakers = len({u.speaker_id for u in manifest.utterances})
    console.print(
        f"{out}: {len(manifest.utterances)} utterances, {speakers} speakers, "
        f"{len(manifest.class_names)} emotions, {hours:.2f} h, {len(manifest.excluded)} excluded; "
        f"{1000 * seconds / len(listing.sources):.1f} s per 1000 files",
        soft_wrap=True,
        markup=False,
    )


@prepare.command("ravdess")
def prepare_ravdess(
    root: Annotated[Path, typer.Argument(help="folder with the clips, WAV or FLAC, any depth")],
    out: OutOption = Path("ravdess.parquet"),
    on_bad: OnBadOption = OnBad.refuse,
    quiet: QuietOption = False,
) -> None:
    """RAVDESS speech."""
    from serkd.corpora.ravdess import scan

    _write_manifest(lambda progress: scan(root), out, on_bad, quiet)


@prepare.command("iemocap")
def prepare_iemocap(
    root: Annotated[Path, typer.Argument(help="IEMOCAP_full_release, with Session1 to Session5")],
    out: OutOption = Path("iemocap.parquet"),
    classes: Annotated[
        Classes,
        typer.Option(help="4: ang, hap (with exc), neu, sad; 5: and fru; 6: and exc by itself"),
    ] = Classes.four,
    subset: Annotated[Subset, typer.Option(help="kind of dialog")] = Subset.all,
    allow_missing: AllowMissingOption = False,
    on_bad: OnBadOption = OnBad.refuse,
    quiet: QuietOption = False,
) -> None:
    """IEMOCAP: its own four-class set of 5531 utterances, or other classes."""
    from serkd.corpora.iemocap import scan

    _write_manifest(
        lambda progress: scan(root, classes.value, subset.value, allow_missing), out, on_bad, quiet
    )


@prepare.command("meld")
def prepare_meld(
    root: Annotated[Path, typer.Argument(help="MELD.Raw: tables and clips of all three splits")],
    out: OutOption = Path("meld.parquet"),
    labels: Annotated[Labels, typer.Option(help="seven emotions or three sentiments")] = (
        Labels.emotion
    ),
    audio_dir: Annotated[
        Path | None,
        typer.Option(help="where the sound of MP4 clips is written; default beside --out"),
    ] = None,
    min_duration: Annotated[float, typer.Option(help="seconds, of training clips")] = 0.1,
    max_duration: Annotated[float, typer.Option(help="seconds, of training clips")] = 30.0,
    allow_missing: AllowMissingOption = False,
    on_bad: OnBadOption = OnBad.refuse,
    quiet: QuietOption = False,
) -> None:
    """MELD with its official split; MP4 clips need PyAV or ffmpeg."""
    from serkd.corpora.build import Limits
    from serkd.corpora.meld import scan

    if not 0 <= min_duration < max_duration:
        raise InputError(
            "--min-duration must be at least 0 and less than --max-duration, got "
            f"{min_duration:g} and {max_duration:g}"
        )
    if audio_dir is not None:
        check_folder("--audio-dir", audio_dir)
    folder = audio_dir or out.parent / f"{out.stem}-audio"
    _write_manifest(
        lambda progress: scan(root, folder, labels.value, allow_missing, progress),
        out,
        on_bad,
        quiet,
        Limits(min_duration, max_duration),
    )


@prepare.command("emodb")
def prepare_emodb(
    root: Annotated[Path, typer.Argument(help="folder with the clips, WAV or FLAC, any depth")],
    out: OutOption = Path("emodb.parquet"),
    on_bad: OnBadOption = OnBad.refuse,
    quiet: QuietOption = False,
) -> None:
    """EmoDB, the Berlin database of emotional speech."""
    from serkd.corpora.emodb import scan

    _write_manifest(lambda progress: scan(root), out, on_bad, quiet)


@prepare.command("crema_d")
def prepare_crema_d(
    root: Annotated[Path, typer.Argument(help="folder with AudioWAV and VideoDemographics.csv")],
    out: OutOption = Path("crema_d.parquet"),
    on_bad: OnBadOption = OnBad.refuse,
    quiet: QuietOption = False,
) -> None:
    """CREMA-D."""
    from serkd.corpora.crema_d import scan

    _write_manifest(lambda progress: scan(root), out, on_bad, quiet)


@prepare.command("table")
def prepare_table(
    table: Annotated[Path, typer.Argument(help="CSV, JSONL or Parquet, one utterance a row")],
    out: OutOption = Path("manifest.parquet"),
    column: Annotated[
        list[str] | None, typer.Option(help="ours=theirs, e.g. speaker_id=speaker")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="theirs=ours, e.g. exc=hap; 'other=' leaves it out")
    ] = None,
    audio_root: Annotated[Path | None, typer.Option(help="where relative paths start")] = None,
    on_bad: OnBadOption = OnBad.refuse,
    quiet: QuietOption = False,
) -> None:
    """Your own corpus, from a table."""
    from serkd.corpora.table import scan

    check_output("--out", out, table)
    columns = _read_pairs("--column", column)
    if empty := [name for name, value in columns.items() if not value]:
        raise InputError(f"--column must look like name=value, got '{empty[0]}='")
    labels = _read_pairs("--label", label)
    _write_manifest(lambda progress: scan(table, columns, labels, audio_root), out, on_bad, quiet)


def _read_pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"{option} must look like name=value, got {text!r}")
        if pairs.setdefault(name, value) != value:
            raise InputError(f"{option} must name {name} once, got {pairs[name]!r} and {value!r}")
    return pairs


@prepare.command("synthetic")
def prepare_synthetic(
    folder: Annotated[Path, typer.Argument(help="where the audio is written")],
    out: Annotated[
        Path | None, typer.Option("--out", help="manifest; default FOLDER/manifest.parquet")
    ] = None,
    num_speakers: Annotated[int, typer.Option(min=3)] = 24,
    utterances_per_emotion: Annotated[int, typer.Option(min=1)] = 5,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    quiet: QuietOption = False,
) -> None:
    """A built-in corpus of synthesised speech, the same for the same seed."""
    from serkd.corpora.synthetic import write_corpus

    check_folder("FOLDER", folder)
    _write_manifest(
        lambda progress: write_corpus(
            folder,
            num_speakers=num_speakers,
            utterances_per_emotion=utterances_per_emotion,
            seed=seed,
            progress=progress,
        ),
        out or folder / "manifest.parquet",
        OnBad.refuse,
        quiet,
    )
