"""The direction of imports, where Ray may be imported, and the size of files."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import serkd

ROOT = Path(serkd.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if "_files" not in path.parts)

# a package may import from those of a lower rank, and from itself
RANKS = {
    "errors": 0,
    "files": 0,
    "events": 0,
    "devices": 0,
    "writable": 1,
    "storage": 1,
    "yaml12": 1,
    "section": 1,
    "threads": 1,
    "memory": 1,
    "gender": 1,
    "config": 2,
    "recipe": 3,
    "corpora": 3,
    "features": 3,
    "units": 3,
    "models": 3,
    "losses": 3,
    "distill": 4,
    "train": 5,
    "stages": 6,
    "runtime": 6,  # knows Ray and the machine and nothing of serkd: for search and report
    "search": 7,
    "report": 8,
    "cli": 9,
    "bench": 9,
    "__main__": 10,
}
PEERS = {"corpora", "features", "units", "models", "losses"}  # may use each other, without cycles
MAY_IMPORT_RAY = {
    "runtime",
    "features.extract",
    "features.store",
    "units.actors",
    "units.handles",
    "units.shards",
    "train.launch",
    "train.checkpoint",
    "train.stream",
    "stages.lease",
    "report.run",
    "bench.stream",
    "bench.sweep",
}


def _name(path: Path) -> str:
    """`serkd/a/b.py` to `a.b`; a package is named by itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> Iterator[str]:
    """Every imported module of a file, inside functions too; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _serkd_modules(path: Path) -> set[str]:
    """Names of the modules of serkd that a file imports, without `serkd.`."""
    known = {_name(module) for module in MODULES} - {""}
    found = set()
    for imported in _imports(path):
        name = imported.removeprefix("serkd.")
        if name != imported:
            # `from serkd.config import Fit` names something in the module config
            found.add(name if name in known else name.rpartition(".")[0])
    return found & known


def _package(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("path", [path for path in MODULES if _name(path)], ids=_name)
def test_imports_point_down(path: Path) -> None:
    package = _package(_name(path))
    for imported in _serkd_modules(path):
        target = _package(imported)
        if target == package or {package, target} <= PEERS:
            continue
        assert RANKS[target] < RANKS[package], f"{_name(path)} imports {imported}"


def test_the_check_above_sees_the_imports() -> None:
    assert _serkd_modules(ROOT / "train" / "student.py") >= {"config", "distill.objective"}
    assert "search.tuner" in _serkd_modules(ROOT / "report" / "sweep.py")


def test_there_are_no_cycles_between_modules() -> None:
    graph = {_name(path): _serkd_modules(path) for path in MODULES if _name(path)}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_there_are_no_cycles_between_packages() -> None:
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        package = _package(_name(path))
        used = {_package(imported) for imported in _serkd_modules(path)} - {package}
        graph.setdefault(package, set()).update(used)
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_runtime_is_for_those_that_start_ray() -> None:
    users = {_name(path) for path in MODULES if "runtime" in _serkd_modules(path)}
    assert {_package(user) for user in users} <= {"search", "report", "cli", "bench"}


def test_ray_is_imported_in_few_places() -> None:
    users = {
        _name(path)
        for path in MODULES
        if any(name == "ray" or name.startswith("ray.") for name in _imports(path))
    }
    assert {user for user in users if _package(user) != "search"} <= MAY_IMPORT_RAY
    assert "stages.lease" in users


def test_the_package_itself_imports_nothing() -> None:
    """`import serkd` and `serkd --help` stay fast."""
    assert list(_imports(ROOT / "__init__.py")) == []
    heavy = {"ray", "torch", "transformers", "faiss", "sklearn", "matplotlib"}
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "cli").glob("*.py")]
    body = [node for tree in trees for node in tree.body]
    top = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        name
        for node in top
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }
    assert not {str(name).partition(".")[0] for name in names} & heavy


def test_a_trials_process_imports_only_what_every_trial_needs() -> None:
    """A process starts for each slot of each sweep; these would double its seconds."""
    code = "import sys, serkd.search.trial, serkd.search.cell_trials; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "ray.tune"} <= (loaded := set(done.stdout.split()))
    assert not {"matplotlib", "scipy.stats", "sklearn", "transformers"} & loaded


def _declared(extras: Collection[str]) -> set[str]:
    """Distributions of an installation with some extras, as pyproject.toml has them."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    rows = [*project["dependencies"], *(row for extra in extras for row in optional[extra])]
    names = [re.match(r"[\w.-]+", row) for row in rows]
    return {name[0].lower().replace("_", "-") for name in names if name}


def test_what_is_imported_is_declared() -> None:
    """The tests' own tools are there when tests run, and not where users run serkd."""
    distributions = packages_distributions()
    for path in MODULES:
        extras = {"video", "aws"} | ({"bench"} if _package(_name(path)) == "bench" else set())
        declared = _declared(extras)
        for name in {imported.partition(".")[0] for imported in _imports(path)}:
            if name in sys.stdlib_module_names or name == "serkd" or name not in distributions:
                continue
            found = {each.lower().replace("_", "-") for each in distributions[name]}
            assert found & declared, f"{path}: {name} is of {found}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
