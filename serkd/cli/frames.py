"""Commands that hand out frames: features, cluster, units export."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serkd.cli.options import (
    JsonOption,
    QuietOption,
    SetOption,
    StorageOption,
    open_console,
    watch,
)
from serkd.errors import InputError
from serkd.writable import check_folder

if TYPE_CHECKING:
    from serkd.config import Experiment

units = typer.Typer(no_args_is_help=True, help="Units as files for other programs.")

RecipeArgument = Annotated[Path | None, typer.Argument(help="experiment, see jobs/recipes/")]
ManifestOption = Annotated[
    Path | None, typer.Option(help="what `serkd prepare` wrote; instead of the recipe's")
]
BackboneOption = Annotated[
    str | None, typer.Option(help="tiny-hubert, a folder or hub name; instead of the recipe's")
]
OutOption = Annotated[Path, typer.Option("--out", help="new folder; holds links or copies")]


class Format(StrEnum):
    """Whose files are written."""

    fairseq = "fairseq"


def features(
    out: OutOption,
    recipe: RecipeArgument = None,
    manifest: ManifestOption = None,
    backbone: BackboneOption = None,
    layers: Annotated[
        str | None, typer.Option(help="e.g. 3,6; default the recipe's backbone.frozen_layers")
    ] = None,
    overrides: SetOption = None,
    storage: StorageOption = Path("serkd-storage"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Layers of a pre-trained backbone for every utterance of a corpus; nothing is trained.

    Layer 0 is what enters the first transformer layer, n the n-th layer's output, 50 frames a
    second. All layers come from one pass, and each is stored like a stage.
    """
    import json

    from serkd.features.extract import Extraction
    from serkd.report.frames import write_features

    check_folder("--out", out)
    chosen = _read_numbers("--layers", layers, least=0)
    experiment = _read(recipe, manifest, backbone, {}, overrides)
    console = open_console()
    with watch(console, quiet or as_json) as observer:
        about = write_features(
            experiment, chosen or [experiment.backbone.frozen_layers], storage, out, observer
        )
    if as_json:
        print(json.dumps(about))
    else:
        done = Extraction(**about["extraction"])
        console.print(
            f"extracted    {done.num_utterances:,} utterances, {done.audio_s / 3600:.2f} h of "
            f"speech in {done.seconds:.1f} s: {done.times_real_time:.0f} times real time",
            highlight=False,
        )
        console.print(f"features     {out}: {', '.join(about['layers'])}", soft_wrap=True)


def cluster(
    out: OutOption,
    recipe: RecipeArgument = None,
    manifest: ManifestOption = None,
    backbone: BackboneOption = None,
    layers: Annotated[str | None, typer.Option(help="e.g. 3,6; default the recipe's")] = None,
    num_clusters: Annotated[
        str | None, typer.Option(help="e.g. 64,512; default the recipe's")
    ] = None,
    fold: Annotated[str, typer.Option(help="a fold's name, or all")] = "1",
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="the backbone's own states: nothing is fine-tuned")
    ] = False,
    overrides: SetOption = None,
    storage: StorageOption = Path("serkd-storage"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Centroids and units of a corpus, without the teacher and student that follow.

    The same stages as in `serkd run`: the extractor is fine-tuned on emotion and gender first,
    unless --pretrained (units.source: backbone) takes the backbone as it is, as fairseq does.
    """
    import json

    from serkd.report.frames import write_clusters
    from serkd.report.terminal import print_units

    check_folder("--out", out)
    values: dict[str, object] = {
        "units.layers": _read_numbers("--layers", layers, least=1),
        "units.num_clusters": _read_numbers("--num-clusters", num_clusters, least=2),
        "units.source": "backbone" if pretrained else None,
    }
    experiment = _read(recipe, manifest, backbone, values, overrides)
    console = open_console()
    with watch(console, quiet or as_json) as observer:
        about = write_clusters(experiment, fold, storage, out, observer)
    if as_json:
        print(json.dumps(about))
        return
    print_units(console, about["folds"])
    console.print(f"units        {out}", soft_wrap=True)


@units.command("export")
def export(
    folder: Annotated[
        Path, typer.Argument(help="of `serkd run` or `serkd cluster`, or of a stage `units`")
    ],
    out: Annotated[Path, typer.Option("--out", help="new folder")],
    format: Annotated[Format, typer.Option(help="fairseq: .tsv, .km, dict.km.txt")] = (
        Format.fairseq
    ),
) -> None:
    """Write stored units as fairseq's label files: train, valid (serkd's dev) and test."""
    from serkd.report.fairseq import export_fairseq

    check_folder("--out", out)
    for written in export_fairseq(folder, out):
        print(written)


def _read(
    recipe: Path | None,
    manifest: Path | None,
    backbone: str | None,
    options: dict[str, object],
    overrides: list[str] | None,
) -> "Experiment":
    """The recipe or the defaults, then the options, then --set."""
    from serkd.recipe import build_experiment, read_overrides
    from serkd.yaml12 import read_yaml

    if recipe is None and manifest is None:
        raise InputError("a recipe must be given, or a manifest with --manifest")
    values = {name: found for name, found in options.items() if found}
    if manifest is not None:
        values["corpus.manifest"] = str(manifest)
    if backbone is not None:
        values["backbone.name"] = backbone
    data = {} if recipe is None else read_yaml(recipe)
    origin = "options" if recipe is None else str(recipe)
    return build_experiment(data, {**values, **read_overrides(overrides or [])}, origin=origin)


def _read_numbers(option: str, text: str | None, *, least: int) -> list[int]:
    """None given is an empty list; given and empty is refused."""
    from serkd.recipe import read_numbers

    return [] if text is None else read_numbers(option, text, least=least)
