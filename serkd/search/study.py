"""A search: Optuna proposes; the study is built from the ledger, and kept for other tools to open.

The journal in the sweep's folder is written anew by every start and then appended to. It is a copy:
deleting or tearing it loses nothing. `optuna-dashboard study.journal` shows it.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from serkd.search.proposals import Proposal
from serkd.search.replay import PENDING, Replay, Trial
from serkd.search.samplers import build_sampler, seed_proposal
from serkd.search.space import DIRECTIONS, Space
from serkd.search.suggest import decode_params, encode_params, suggest

logger = logging.getLogger(__name__)

_STATES = {
    "finished": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    **dict.fromkeys(PENDING, TrialState.RUNNING),
}
_TRIES = 64  # at finding a trial that has not been proposed before


class ParamsJudge:
    """Which parameters are illegal, and which are the same trial; this one knows no rules."""

    def find_broken(self, params: Mapping[str, Any]) -> str | None:
        """The rule that they break."""
        return None

    def name(self, params: Mapping[str, Any]) -> str:
        """Equal for trials that are the same experiment."""
        return json.dumps(params, sort_keys=True)


class Search:
    """Trials of a space, as many as its budget says, counting those that the ledger knows.

    A proposal is drawn with a seed of its own, from the sweep's seed and the trial's number: a
    search that is killed goes on, and does not begin again. Samplers that learn nothing (random,
    qmc, grid) propose the same trials however often that happens.
    """

    def __init__(
        self,
        space: Space,
        name: str,
        journal: Path,
        replay: Replay,
        judge: ParamsJudge | None = None,
    ) -> None:
        self.space, self.total = space, space.budget.trials
        self.judge = judge or ParamsJudge()
        self._known = {self.judge.name(trial.params) for trial in replay.current()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        backend = _Journal()
        self.study = optuna.create_study(
            storage=JournalStorage(backend),
            study_name=name,
            directions=[
                "maximize" if DIRECTIONS[o] == "max" else "minimize" for o in space.objective
            ],
        )
        if len(space.objective) > 1:
            self.study.set_metric_names(list(space.objective))
        for key, value in replay.study_attrs.items():
            self.study._storage.set_study_system_attr(self.study._study_id, key, value)
        self._numbers: dict[int, int] = {}  # Optuna's, by ours
        self._told = {trial.number for trial in replay.ended()}
        for number, trial in enumerate(replay.current()):
            self._numbers[trial.number] = number
            self.study.add_trial(self._freeze(trial))
        backend.write_to(journal)

    def propose(self, number: int, replay: Replay) -> Proposal | None:
        if len(replay.current()) >= self.total:
            return None
        before = self._study_attrs()
        for attempt in range(_TRIES):
            self.study.sampler = self._build_sampler(number, attempt)
            asked = self.study.ask()
            suggest(asked, self.space.space)
            params = decode_params(asked.params)
            if self._is_new(params):
                self._numbers[number] = asked.number
                now = self._study_attrs()
                attrs = self.study._storage.get_trial_system_attrs(asked._trial_id)
                changed = {key: now[key] for key in now if now[key] != before.get(key)}
                return Proposal(params, attrs=attrs, study_attrs=changed)
            self._tell(asked.number, state=TrialState.FAIL)
        logger.warning(
            "%d trials of %d: %d further proposals broke a constraint or repeated a trial",
            len(replay.current()),
            self.total,
            _TRIES,
        )
        return None

    def _study_attrs(self) -> dict[str, Any]:
        """What the sampler keeps in the study."""
        return dict(self.study._storage.get_study_system_attrs(self.study._study_id))

    def _is_new(self, params: Mapping[str, Any]) -> bool:
        """Legal, and another experiment than all trials so far."""
        if self.judge.find_broken(params) is not None:
            return False
        name = self.judge.name(params)
        is_new = name not in self._known
        self._known.add(name)
        return is_new

    def _tell(self, number: int, **how: Any) -> None:  # noqa: ANN401
        # hooks of samplers mean `Study.optimize`: some would stop it, and there is none
        self.study.sampler = RandomSampler(0)
        self.study.tell(number, **how)

    def tell(self, trial: Trial) -> None:
        if trial.number in self._told:
            return
        self._told.add(trial.number)
        number, values = self._numbers[trial.number], self._values(trial)
        if trial.state == "finished":
            self._tell(number, values=values)
            return
        if trial.state == "pruned" and len(values) == 1:
            storage, study_id = self.study._storage, self.study._study_id
            # study.trials would copy every trial
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
            for step, value in trial.rungs.items():
                storage.set_trial_intermediate_value(trial_id, step, value)
        self._tell(number, state=_STATES[trial.state])

    def _build_sampler(self, number: int, attempt: int) -> BaseSampler:
        name = self.space.sampler
        if name != "qmc" and attempt >= _TRIES // 2:
            name = "random"  # one that has learned what is good may propose it for ever
        return build_sampler(name, seed_proposal(self.space, number, attempt))

    def _values(self, trial: Trial) -> list[float]:
        found = trial.facts.get("values") or {}
        return [float(found[name]) for name in self.space.objective if name in found]

    def _freeze(self, trial: Trial) -> FrozenTrial:
        params = encode_params(self.space.space, trial.params)
        recorder = _Recorder(params)
        suggest(cast(optuna.Trial, recorder), self.space.space)
        is_finished = trial.state == "finished"
        return create_trial(
            state=_STATES[trial.state],
            values=self._values(trial) if is_finished else None,
            params={name: params[name] for name in recorder.distributions},
            distributions=recorder.distributions,
            intermediate_values=trial.rungs,
            system_attrs=trial.attrs,
            user_attrs={"trial": trial.number},
        )


class _Recorder:
    """Stands for an Optuna trial whose values are known: notes the distributions asked for."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> Any:  # noqa: ANN401
        return self._note(name, CategoricalDistribution(tuple(choices)))

    def suggest_int(self, name: str, low: int, high: int, **how: Any) -> Any:  # noqa: ANN401
        return self._note(name, IntDistribution(low, high, **how))

    def suggest_float(self, name: str, low: float, high: float, **how: Any) -> Any:  # noqa: ANN401
        return self._note(name, FloatDistribution(low, high, **how))

    def _note(self, name: str, distribution: BaseDistribution) -> Any:  # noqa: ANN401
        self.distributions[name] = distribution
        return self.params[name]


class _Journal(BaseJournalBackend):
    """Optuna's journal file, written by one process.

    Optuna's own backend locks, reads and syncs the file for every number that is stored, which one
    writer whose file may be lost has no need of.
    """

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []
        self.path: Path | None = None

    def write_to(self, path: Path) -> None:
        """All so far, at once, and from now on as it comes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(_as_lines(self.logs), encoding="utf-8")
        temporary.replace(path)
        self.path = path

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return iter(self.logs[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        # through text: Optuna must be given back what a reader of the file would be
        self.logs += [json.loads(json.dumps(log)) for log in logs]
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_as_lines(logs))


def _as_lines(logs: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
