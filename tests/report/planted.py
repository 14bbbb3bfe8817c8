"""Cells with planted effects: a skill by settings, fold and seed, from which predictions are drawn.

Nothing is trained. What an arm is truly worth is known, so verdicts can be counted right or wrong.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from serkd.config import Experiment
from serkd.recipe import build_experiment
from serkd.report.ablate import run_study
from serkd.report.answer import build_report, describe_opened, read_plan
from serkd.search.ablation import Ablation
from serkd.search.cells import Cell
from serkd.search.designs import Study, build_study

# noise of an arm depends on these, so that a new setting elsewhere changes no test
NOISY = ("student.width", "student.depth", "student.fit.lr", "distill.alpha")
NAMES = ("angry", "happy", "neutral", "sad")


def draw(*parts: object) -> np.random.Generator:
    """Noise that depends on what it is of, and on nothing else."""
    text = "/".join(map(str, parts)).encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:8], "big"))


@dataclass
class Planted:
    """A source of outcomes; `effects` are by dotted key and value, in shares of skill.

    `fold_sd` moves all arms of a fold alike, `arm_sd` an arm in a fold, `seed_sd` a cell.
    """

    effects: Mapping[tuple[str, Any], float]
    name: str = "world"
    skill: float = 0.7
    fold_sd: float = 0.04
    arm_sd: float = 0.01
    seed_sd: float = 0.01
    speakers: int = 4
    utterances: int = 200  # of a speaker
    computed: list[str] = field(default_factory=list)
    stop_after: int | None = None
    stop_with: type[BaseException] = KeyboardInterrupt
    knows_computed: bool = False  # and has no other outcome

    def compute(self, cells: Sequence[Cell], arms: Mapping[str, str]) -> None:
        assert all(cell.name in arms for cell in cells)
        for cell in cells:
            if cell.name in self.computed:
                continue
            if self.stop_after is not None and len(self.computed) >= self.stop_after:
                raise self.stop_with
            self.computed.append(cell.name)

    def outcome(self, cell: Cell) -> dict[str, Any] | None:
        if self.knows_computed and cell.name not in self.computed:
            return None
        data = cell.experiment.model_dump(mode="json")
        worth = sum(
            effect
            for (dotted, value), effect in self.effects.items()
            if _get(data, dotted) == value
        )
        arm = [_get(data, dotted) for dotted in NOISY]
        skill = self.skill + worth + self.fold_sd * draw(self.name, cell.fold).normal()
        skill += self.arm_sd * draw(self.name, cell.fold, arm).normal()
        skill += self.seed_sd * draw(self.name, cell.fold, arm, cell.seed).normal()
        return {
            "cell": cell.name,
            "fold": cell.fold,
            "seed": cell.seed,
            "class_names": list(NAMES),
            "speakers": [
                [f"{cell.fold}-{i}", ("female", "male")[i % 2]] for i in range(self.speakers)
            ],
            "confusions": self._confusions(
                draw(self.name, cell.fold, arm, cell.seed, "said"), skill
            ).tolist(),
            "num_train": 8 * self.speakers * self.utterances,
            "parameters": 1_000 * data["student"]["width"],
            "curve": [
                {"epoch": e, "dev_uar": skill * (1 - 0.5**e), "loss": 0.5**e} for e in range(1, 11)
            ],
            "max_epochs": 10,
            "stages": [["student", self.key(cell), 1.0]],
        }

    def key(self, cell: Cell) -> str:
        return f"{self.name}/{cell.name}"

    def cost(self, experiment: Experiment) -> dict[str, float | None]:
        width = experiment.student.shape.width
        return {"macs": 1e6 * width, "latency_ms": width / 100}

    def _confusions(self, rng: np.random.Generator, skill: float) -> np.ndarray:
        """(G, C, C): as many utterances of every class; errors go to the others alike."""
        each = self.utterances // len(NAMES)
        wrong = (1 - skill) / (len(NAMES) - 1)
        shares = np.full((len(NAMES), len(NAMES)), wrong)
        np.fill_diagonal(shares, skill)
        return np.stack([rng.multinomial(each, shares) for _ in range(self.speakers)])


def _get(data: Mapping[str, Any], dotted: str) -> Any:  # noqa: ANN401
    value: Any = data
    for name in dotted.split("."):
        value = value[name]
    return value


def planted_study(file: Mapping[str, Any], name: str = "planted") -> Study:
    """A study of a file's contents on an experiment whose width and depth are numbers."""
    ablation = Ablation.model_validate({"question": "?", "base": "base.yaml", **file}, strict=False)
    base: Experiment = build_experiment({}, {"student.width": 128, "student.depth": 4})
    return build_study(name, ablation, base, {}, origin="planted.yaml")


def facts(num_folds: int) -> dict[str, Any]:
    """What `describe_data` says of a corpus."""
    return {
        "corpora": ["synthetic"],
        "class_names": list(NAMES),
        "num_utterances": 100,
        "protocol": "speaker_kfold",
        "all_folds": [str(i) for i in range(1, num_folds + 1)],
        "corpus_hash": "c" * 64,
        "folds_hash": "f" * 64,
        "shares_speakers": False,
        "machine": "x86_64",
        "command": "serkd ablate planted.yaml",
    }


def run_planted(
    file: Mapping[str, Any], source: Planted, folder: Path, num_folds: int
) -> dict[str, Any]:
    """The report of an ablation in a world."""
    return run_study(planted_study(file), facts(num_folds), folder, source)


def look_at(folder: Path) -> dict[str, Any]:
    """What `serkd test` of all arms writes down of what it looked at."""
    plan, report = read_plan(folder), build_report(folder)
    outcomes = {
        arm["name"]: {
            (cell["fold"], cell["seed"]): {"stages": [["student", cell["key"], 1.0]]}
            for cell in arm["cells"]
        }
        for arm in report["comparison"]["arms"]
    }
    return {name: describe_opened(plan, name, found) for name, found in outcomes.items()}
