"""Everything once on the built-in corpus: what ``serkd quickstart`` does."""

import json
from pathlib import Path

from rich.console import Console

import serkd
from serkd.errors import InputError
from serkd.events import Observer
from serkd.recipe import read_experiment
from serkd.report.builtin import synthesise_corpus
from serkd.report.run import run_experiment
from serkd.report.sealed import open_test
from serkd.report.sweep import start_sweep
from serkd.report.terminal import print_run, print_sweep, print_test


def find_file(name: str) -> Path:
    """A recipe or search space, in the installed package or in the checkout.

    Raises:
        InputError: it is in neither.
    """
    package = Path(serkd.__file__).parent
    for root in (package / "_files", package.parent):
        if (root / name).is_file():
            return root / name
    raise InputError(f"{name} must be in the checkout or the installed package, it is in neither")


def run_quickstart(folder: Path, console: Console, observer: Observer) -> None:
    """Synthesise a corpus, run the recipe, search, and print all of it; again reuses all of it."""
    manifest = synthesise_corpus(folder, observer)
    overrides = {"corpus.manifest": str(manifest.resolve())}
    console.print("\nthe recipe, jobs/recipes/quickstart.yaml")
    recipe = find_file("jobs/recipes/quickstart.yaml")
    settings = [f"{name}={value}" for name, value in overrides.items()]
    results, run_folder = run_experiment(
        read_experiment(recipe, settings), "1", folder, recipe.stem, observer
    )
    print_run(console, results, run_folder, as_json=False)
    console.print("\nthe recipe's test split")
    tested = run_folder / "test.json"
    if not tested.is_file():  # a second quickstart is not a second look
        open_test(run_folder, None)
    print_test(console, json.loads(tested.read_text(encoding="utf-8")), run_folder, as_json=False)
    console.print("\nthe search, search_spaces/quickstart.yaml")
    space = find_file("search_spaces/quickstart.yaml")
    done = start_sweep(space, overrides, None, folder, observer)
    print_sweep(console, done, as_json=False)
    console.print(f"\neverything is below {folder}; run it again and all of it is reused")
