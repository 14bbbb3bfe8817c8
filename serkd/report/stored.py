"""What is stored, for whom, and what may go: the commands of ``serkd stages``."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from serkd.config import Experiment
from serkd.corpora.folds import Fold, select_folds
from serkd.corpora.protocols import read_folds
from serkd.errors import InputError
from serkd.recipe import build_experiment
from serkd.report.answer import PLAN, read_plan
from serkd.report.answers import read_sweep
from serkd.report.asked import is_of_corpus, read_cells
from serkd.report.results import read_json
from serkd.search.ledger import Ledger
from serkd.search.pareto import find_front
from serkd.stages.catalogue import MODELS, STAGES, STUDENT
from serkd.stages.context import Ref
from serkd.stages.graph import Graph
from serkd.stages.inventory import Miss, Stored, explain_miss, find_ancestors, list_stored
from serkd.stages.lease import is_held, lock_now
from serkd.stages.store import StageStore
from serkd.storage.mirror import name_storage
from serkd.storage.owner import find_owners
from serkd.storage.sync import pull


@dataclass(frozen=True)
class Sweepings:
    """Stages that nobody needs any more, and how many are kept."""

    unneeded: list[Stored]
    num_kept: int

    @property
    def num_bytes(self) -> int:
        """What deleting them frees."""
        return sum(each.num_bytes for each in self.unneeded)


def find_unneeded(storage: Path, keep_best: int) -> Sweepings:
    """Stages that no run, no ablation and no sweep's best trials need.

    A sweep that has not ended needs all of its trials'. What made a needed stage is needed too.

    Raises:
        InputError: work is running in the storage, or it cannot be told what a folder needs.
    """
    for part in ("runs", "sweeps"):
        pull(storage / part)
    stored = list_stored(storage)
    if not stored:
        raise InputError(f"--storage must have stages, {name_storage(storage)} has none")
    if busy := [*_running(storage)]:
        raise InputError(f"{storage}: must be at rest, but work is running: {', '.join(busy[:5])}")
    keys: set[str] = set()
    for folder in sorted((storage / "runs").glob("*/")):
        keys |= _of_run(folder)
    for folder in sorted((storage / "sweeps").glob("*/")):
        keys |= _of_sweep(folder, keep_best)
    needed = find_ancestors(stored, keys)
    unneeded = [each for each in stored if each.key not in needed]
    return Sweepings(unneeded, len(stored) - len(unneeded))


def _running(storage: Path) -> Iterator[str]:
    """What is at work: a stage that is computed here, a sweep that is driven anywhere."""
    locks = [*(storage / "stages" / ".work").glob("*.lock"), *storage.glob("sweeps/*/*.lock")]
    for path in locks:
        if is_held(path):
            yield path.name.removesuffix(".lock") if path.parent.name == ".work" else str(path)
    yield from find_owners(storage / "sweeps")


def _of_run(folder: Path) -> set[str]:
    if not (folder / "results.json").is_file():
        raise InputError(f"{folder}: must be a finished run, finish it or delete the folder")
    folds = read_json(folder / "results.json")["folds"].values()
    return {row["key"] for fold in folds for row in fold["stages"]}


def _of_sweep(folder: Path, keep_best: int) -> set[str]:
    if (folder / "sweep.json").is_file():
        return _of_search(folder, keep_best)
    if (folder / PLAN).is_file():
        return _of_ablation(folder)
    raise InputError(f"{folder}: must be a sweep or an ablation, it cannot be told what it needs")


def _of_search(folder: Path, keep_best: int) -> set[str]:
    about = read_json(folder / "sweep.json")
    base, seeds = about["base"], about["space"]["seeds"]
    trials = Ledger(folder / "ledger.jsonl").trials()
    ended = [t for t in trials if t["state"] in ("finished", "pruned", "failed")]
    if len(ended) < about["space"]["budget"]["trials"] or len(ended) < len(trials):
        kept = [t for t in trials if "params" in t]
    elif any(t["state"] == "finished" for t in ended):
        swept = read_sweep(folder)
        front = find_front(swept.trials, swept.space.objective) if swept.space.is_pareto else []
        kept = [dict(trial) for trial in (*swept.trials[:keep_best], *front)]
    else:
        kept = []
    experiments = [
        build_experiment(base, {**t["params"], **({} if seed is None else {"seed": seed})})
        for t, seed in product(kept, seeds or (None,))
    ]
    names = about["space"]["folds"]
    return _keys(experiments, "all" if names == "all" else names, STUDENT)


def _of_ablation(folder: Path) -> set[str]:
    """Of a corpus that was prepared anew since, it has no stage that is needed."""
    plan = read_plan(folder)
    target, found = MODELS[plan["file"]["model"]], set[str]()
    first = build_experiment(plan["arms"][0]["experiment"], {})
    if not is_of_corpus(plan, read_folds(first.corpus, first.protocol)):
        return found
    for arm in plan["arms"]:
        for cell in read_cells(plan, arm).values():
            found |= _keys([cell.experiment], [cell.fold], target)
    return found


def _keys(experiments: Iterable[Experiment], names: Iterable[str], target: Ref) -> set[str]:
    """Keys of a target, and of all that it reads, on some folds."""
    found: set[str] = set()
    known: dict[str, list[Fold]] = {}
    for experiment in experiments:
        text = experiment.corpus.model_dump_json() + experiment.protocol.model_dump_json()
        if text not in known:
            known[text] = read_folds(experiment.corpus, experiment.protocol)
        folds = known[text]
        chosen = folds if names == "all" else [f for n in names for f in select_folds(folds, n)]
        for fold in chosen:
            graph = Graph(STAGES, experiment, fold)
            found |= {graph.key(ref) for ref in graph.closure([target])}
    return found


def delete_unneeded(storage: Path, found: Sweepings) -> int:
    """Delete them; returns the bytes. One that is asked for meanwhile stays."""
    store, freed = StageStore(storage), 0
    for each in found.unneeded:
        work = store.work(each.stage, each.key)
        with ExitStack() as held:
            if not lock_now(work.with_name(f"{work.name}.lock"), held):
                continue
            store.delete(each.stage, each.key)
            freed += each.num_bytes
    return freed


def explain_misses(
    experiment: Experiment, fold_choice: str, storage: Path, models: Iterable[str]
) -> list[tuple[str, Miss]]:
    """Of every stage that a recipe wants and the storage lacks, how the nearest one differs.

    In the order in which they would be computed: an input that is missing comes before the stage
    that reads it.
    """
    store, stored, found = StageStore(storage), list_stored(storage), []
    for fold in select_folds(read_folds(experiment.corpus, experiment.protocol), fold_choice):
        graph = Graph(STAGES, experiment, fold)
        for ref in graph.closure([MODELS[model] for model in models]):
            key = graph.key(ref)
            if store.find(ref.stage, key) is None:
                name = f"{ref} of fold {fold.name}"
                found.append((name, explain_miss(ref.stage, key, graph.fields(ref), stored)))
    return found
