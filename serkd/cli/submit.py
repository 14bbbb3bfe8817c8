"""The command that sends a sweep to a cluster."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from serkd.cli.options import SetOption, SmokeOption, TrialsOption
from serkd.errors import InputError


def submit(
    space: Annotated[Path, typer.Argument(help="search space, see search_spaces/")],
    address: Annotated[str, typer.Option(help="the head's dashboard, like http://head:8265")],
    storage: Annotated[
        str, typer.Option(help="s3://bucket/path, gs://bucket/path, or a folder that all share")
    ],
    overrides: SetOption = None,
    trials: TrialsOption = None,
    smoke: SmokeOption = False,
    working_dir: Annotated[
        Path, typer.Option(help="sent to the cluster: the checkout, without what git ignores")
    ] = Path(),
    exclude: Annotated[
        list[str] | None, typer.Option(help="not sent either, as in .gitignore; may be repeated")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the job, may be repeated")
    ] = None,
    num_cpus: Annotated[float, typer.Option(min=0, help="what the entry point itself holds")] = 1.0,
    num_gpus: Annotated[float, typer.Option(min=0, help="the same")] = 0.0,
    job_id: Annotated[str | None, typer.Option(help="a new name; default one of Ray's")] = None,
    wait: Annotated[bool, typer.Option(help="print the log until the job ends")] = True,
) -> None:
    """Run `serkd sweep` as a job of a Ray cluster, and follow its log.

    Submit the same again to go on after a stop, a crash or a new head: its storage knows how far
    it was. Exit code 0 when the job succeeded, or with --no-wait was started.
    """
    from serkd.recipe import read_overrides
    from serkd.search.read import read_space
    from serkd.search.submit import Head, Submission, check_paths

    values = read_overrides(overrides or [])
    _, base = read_space(space, values, smoke=smoke)
    is_built_in = smoke and "corpus.manifest" not in values  # the job makes it where it runs
    manifests = [] if is_built_in else [base.corpus.manifest, *base.corpus.more_manifests]
    check_paths(space, working_dir, storage, [path for path in manifests if path])
    command = ["python", "-m", "serkd", "sweep", _below(space, working_dir), "--storage", storage]
    command += [word for setting in overrides or [] for word in ("--set", setting)]
    command += [] if trials is None else ["--trials", str(trials)]
    command += ["--smoke"] if smoke else []
    head = Head(address)
    job = Submission(
        command, working_dir.resolve(), exclude or [], _read_env(env), job_id, num_cpus, num_gpus
    )
    started = head.submit(job)
    print(f"job          {started} at {head.address}: {shlex.join(command)}")
    print(f"come back\n{head.how_to_return(started)}", flush=True)
    if not wait:
        return
    try:
        status = head.follow(started)
    except KeyboardInterrupt:
        print(f"\nnot followed any more; {started} goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    if status != "SUCCEEDED":
        raise RuntimeError(f"job {started} ended as {status}, its log is above")


def _below(space: Path, working_dir: Path) -> str:
    return space.resolve().relative_to(working_dir.resolve()).as_posix()


def _read_env(texts: list[str] | None) -> dict[str, str]:
    if wrong := [text for text in texts or [] if not text.partition("=")[0] or "=" not in text]:
        raise InputError(f"--env must be NAME=VALUE, got {', '.join(wrong)}")
    return dict(text.split("=", 1) for text in texts or [])
