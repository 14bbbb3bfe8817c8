"""The engine with trivial trials: what ends a trial, what ends a sweep, and what neither does."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import ray
from ray._private.utils import get_system_memory, get_used_memory

from serkd.errors import InputError, SweepError
from serkd.search.capacity import count_slots, require_fit
from serkd.search.engine import Engine
from serkd.search.ledger import Ledger
from serkd.search.limits import Limits
from serkd.search.proposals import Listed, Proposal
from serkd.search.replay import Replay
from serkd.search.reports import Reports, Train
from serkd.search.runner import _Watcher, run_trials
from serkd.search.space import Resources

pytestmark = pytest.mark.slow

ONE = Resources()


def _run(folder: Path, train: Train, params: list[dict[str, Any]], **options: Any) -> Replay:  # noqa: ANN401
    proposals = Listed([Proposal(each) for each in params])
    with Ledger(folder / "ledger.jsonl").lock():
        return run_trials(folder, proposals, train, ONE, partial(count_slots, ONE), **options)


def _states(replay: Replay) -> list[str]:
    return [trial.state for trial in replay.current()]


def _accident(marks: str) -> Train:
    """A trainable to which what its parameters say happens, once or always."""

    def train(number: int, params: Mapping[str, Any], reports: Reports) -> None:
        from pathlib import Path

        mark = Path(marks) / f"ran-{number}"
        is_first = not mark.exists()
        mark.touch()
        reports.step(1, {"dev_uar": 0.5})
        kind = params["kind"]
        if kind == "nan":
            reports.step(2, {"dev_uar": float("nan")})
        elif kind == "exception":
            print("about to divide")
            reports.step(2, {"dev_uar": 1 / 0})
        elif kind == "memory":
            raise MemoryError("no room")
        elif kind == "killed always" or (kind == "killed once" and is_first):
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "silent":
            return
        reports.step(3, {"dev_uar": 0.25 + number / 100}, is_held=True)

    return train


def test_each_accident_ends_one_trial_with_its_reason(ray_cluster: None, tmp_path: Path) -> None:
    kinds = ["none", "nan", "exception", "memory", "killed once", "killed always", "none"]
    train = _accident(str(tmp_path))
    replay = _run(tmp_path / "sweep", train, [{"kind": k, "i": i} for i, k in enumerate(kinds)])
    failed = "failed"
    assert _states(replay) == [
        "finished", failed, failed, failed, "finished", failed, "finished"
    ]  # fmt: skip
    reasons = [trial.facts.get("reason", "") for trial in replay.current()]
    assert "dev_uar must be finite, got nan at step 2" in reasons[1]
    assert "ZeroDivisionError: division by zero" in reasons[2]
    assert "MemoryError: no room" in reasons[3]
    assert "its process died 3 times" in reasons[5]
    log = (tmp_path / "sweep" / "logs" / "trial-00002.log").read_text()
    assert "about to divide" in log
    assert "ZeroDivisionError" in log
    events = Counter(
        (record["event"], record.get("trial"))
        for record in Ledger(tmp_path / "sweep" / "ledger.jsonl").read()
    )
    assert events["started", 4] == 2  # under its number, with its parameters
    assert events["started", 5] == 3
    assert all(events["proposed", number] == 1 for number in range(7))


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (
            "1 worker was killed due to the node running low on memory\nRefer to the documentation",
            "failed",
            "out of memory: 1 worker was killed due to the node running low on memory",
        ),
        (
            "the process is dead: (1) by SIGKILL due to high memory usage, (2) by you",
            "preempted",
            "the process is dead: (1) by SIGKILL due to high memory usage, (2) by you",
        ),
    ],
)
def test_who_is_killed_for_its_memory_would_be_again(
    tmp_path: Path, error: str, state: str, reason: str
) -> None:
    class Dead:
        trial_id = "a"
        error_file = str(tmp_path / "error.txt")

    Path(Dead.error_file).write_text(f"Failure # 1\n{error}\n")
    ledger = Ledger(tmp_path / "ledger.jsonl")
    proposals = Listed([Proposal({"i": 0})])
    engine = Engine(ledger, proposals, ONE, lambda: 1, None, Limits(), lambda key: False, ())
    assert engine.next_trial("a") is not None
    engine.started("a")
    _Watcher(engine).on_trial_error(0, [], cast(Any, Dead()))
    (trial,) = ledger.replay().current()
    assert (trial.state, trial.facts["reason"]) == (state, reason)
    assert (engine.next_trial("b") is not None) == (state == "preempted")


_EATER = """
import os, sys, time
from functools import partial
from pathlib import Path
import numpy as np
from ray._private.utils import get_system_memory, get_used_memory  # a container's, in one
from serkd import runtime
from serkd.search.capacity import count_slots
from serkd.search.ledger import Ledger
from serkd.search.proposals import Listed, Proposal
from serkd.search.runner import run_trials
from serkd.search.space import Resources

def train(number, params, reports):
    eaten = []
    while params["eats"] and len(eaten) < 96:
        eaten.append(np.ones(2**24))  # 128 MiB
        time.sleep(0.02)
    reports.step(1, {"dev_uar": 0.5}, is_held=True)

allowed = (get_used_memory() + 6 * 2**30) / get_system_memory()
os.environ["RAY_memory_usage_threshold"] = f"{allowed:.3f}"
os.environ["RAY_memory_monitor_refresh_ms"] = "50"
runtime.start_ray(2)
folder, one = Path(sys.argv[1]), Resources()
proposals = Listed([Proposal({"eats": i == 1, "i": i}) for i in range(4)])
with Ledger(folder / "ledger.jsonl").lock():
    run_trials(folder, proposals, train, one, partial(count_slots, one))
"""


@pytest.mark.skipif(
    get_system_memory() - get_used_memory() < 14 * 2**30, reason="needs 14 GiB to spare"
)
def test_a_trial_that_ray_kills_for_its_memory_fails_alone(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", _EATER, str(tmp_path)],
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    trials = Ledger(tmp_path / "ledger.jsonl").replay().current()
    assert [trial.state for trial in trials] == ["finished", "failed", "finished", "finished"]
    assert trials[1].facts["reason"].startswith("out of memory: ")
    assert "running low on memory" in trials[1].facts["reason"]


def test_a_trial_whose_process_dies_before_it_starts_again_is_handed_out_once_more(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    proposals = Listed([Proposal({"i": 0})])
    engine = Engine(ledger, proposals, ONE, lambda: 1, None, Limits(), lambda key: False, ())
    for name in ("a", "b"):  # the second time it never had an actor
        assert engine.next_trial(name) is not None
        if name == "a":
            engine.started(name)
        engine.died(name, "gone", is_out_of_memory=False)
    assert engine.next_trial("c") is not None


def test_a_bug_common_to_all_trials_stops_the_sweep(ray_cluster: None, tmp_path: Path) -> None:
    def train(number: int, params: Mapping[str, Any], reports: Reports) -> None:
        raise KeyError("the same for all")

    with pytest.raises(SweepError, match=r"the first 3 trials failed.*the same for all"):
        _run(tmp_path, train, [{"i": i} for i in range(50)])
    replay = Ledger(tmp_path / "ledger.jsonl").replay()
    assert len(replay.trials) <= 5
    assert _states(replay).count("failed") == 3


def test_trials_that_end_without_a_value_have_failed(ray_cluster: None, tmp_path: Path) -> None:
    def train(number: int, params: Mapping[str, Any], reports: Reports) -> None:
        if number:
            reports.step(1, {"dev_uar": 0.5})

    replay = _run(tmp_path, train, [{"i": 0}, {"i": 1}])
    assert _states(replay) == ["failed", "finished"]
    assert replay.trials[0].facts["reason"] == "the trial ended without a value"


def test_trials_run_at_the_same_time(ray_cluster: None, tmp_path: Path) -> None:
    """Two trials that each wait until the other one is there."""
    marks = str(tmp_path)

    def train(number: int, params: Mapping[str, Any], reports: Reports) -> None:
        from pathlib import Path

        (Path(marks) / f"here-{number}").touch()
        while not (Path(marks) / f"here-{1 - number}").exists():
            time.sleep(0.01)
        reports.step(1, {"dev_uar": 0.5})

    assert _states(_run(tmp_path / "sweep", train, [{"i": 0}, {"i": 1}])) == ["finished"] * 2


def test_who_waits_for_a_stage_gives_its_slot_to_others(ray_cluster: None, tmp_path: Path) -> None:
    """Trial 0 computes what 1 and 2 need and goes on only when 3 has ended: 3 needs their slots."""
    marks = str(tmp_path)

    def train(number: int, params: Mapping[str, Any], reports: Reports) -> None:
        from pathlib import Path

        from serkd.stages.lease import StageBusyError, hold

        artifact, done = Path(marks) / "artifact", Path(marks) / "done-3"
        if number == 0:
            with hold("shared-stage", Path(marks) / "lock", waits=False):
                (Path(marks) / "held").touch()
                while not done.exists():
                    time.sleep(0.01)
                artifact.touch()
        else:
            while not (Path(marks) / "held").exists():
                time.sleep(0.01)
        if number in (1, 2) and not artifact.exists():
            with hold("shared-stage", Path(marks) / "lock", waits=False):
                raise AssertionError("two hold it")
        if number == 3:
            done.touch()
        assert StageBusyError
        reports.step(1, {"dev_uar": 0.5})

    replay = _run(
        tmp_path / "sweep",
        train,
        [{"i": i} for i in range(4)],
        is_there=lambda key: key == "shared-stage" and (tmp_path / "artifact").exists(),
    )
    assert _states(replay) == ["finished"] * 4
    events = [(r["event"], r.get("trial")) for r in Ledger(tmp_path / "sweep/ledger.jsonl").read()]
    assert ("waits", 1) in events
    assert ("waits", 2) in events
    assert events.count(("finished", 1)) == 1


def test_a_full_disk_of_a_trial_stops_the_sweep_and_loses_nothing(
    ray_cluster: None, tmp_path: Path
) -> None:
    def train(number: int, params: Mapping[str, Any], reports: Reports) -> None:
        import errno

        if number == 2:
            raise OSError(errno.ENOSPC, "No space left on device", "checkpoint")
        reports.step(1, {"dev_uar": 0.5})

    params = [{"i": i} for i in range(6)]
    with pytest.raises(
        SweepError, match=r"the disk is full.*free space, then run the same command"
    ):
        _run(tmp_path, train, params)
    assert "failed" not in _states(Ledger(tmp_path / "ledger.jsonl").replay())

    def later(number: int, params: Mapping[str, Any], reports: Reports) -> None:
        reports.step(1, {"dev_uar": 0.5})

    assert _states(_run(tmp_path, later, params)) == ["finished"] * 6


def test_a_trial_that_fits_no_node_is_refused(ray_cluster: None) -> None:
    assert require_fit(ONE) == 2
    assert count_slots(Resources(cpu=2)) == 1
    with pytest.raises(InputError, match=r"it needs 5 CPU, the cluster has 2 CPU on 1 node"):
        require_fit(Resources(cpu=5))
    with pytest.raises(InputError, match=r"1 CPU, 0\.25 GPU, the cluster has 2 CPU, 0 GPU"):
        require_fit(Resources(gpu=0.25))


_DRIVER = """
import sys, time
from functools import partial
from pathlib import Path
from serkd import runtime
from serkd.search.asha import asha_rungs
from serkd.search.capacity import count_slots
from serkd.search.ledger import Ledger
from serkd.search.proposals import Proposal, Listed
from serkd.search.runner import run_trials
from serkd.search.space import Resources
import random

folder = Path(sys.argv[1])

def train(number, params, reports):
    import os, signal, time
    dies = (folder / "workers-die").exists() and number % 9 == 4
    for epoch in range(1, 10):
        time.sleep(0.01)
        died = folder / f"died-{number}"
        if dies and epoch == 3 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        value = params["height"] * (1 - params["speed"] ** epoch)
        reports.step(epoch, {"dev_uar": value}, is_held=epoch == 9)

rng = random.Random(7)
proposals = [Proposal({"height": rng.random(), "speed": 0.9 * rng.random()}) for _ in range(60)]
runtime.start_ray()
with Ledger(folder / "ledger.jsonl").lock():
    run_trials(folder, Listed(proposals), train, Resources(), partial(count_slots, Resources()),
               rungs=asha_rungs(1, 3, 9))
"""


# whose trials never report, until a file lets them go
_STUCK = """
import sys, time
from functools import partial
from pathlib import Path
from serkd import runtime
from serkd.search.capacity import count_slots
from serkd.search.ledger import Ledger
from serkd.search.proposals import Proposal, Listed
from serkd.search.runner import run_trials
from serkd.search.space import Resources

folder = Path(sys.argv[1])

def train(number, params, reports):
    import time
    from pathlib import Path
    while not (Path(params["folder"]) / "go").exists():
        time.sleep(0.05)
    reports.step(1, {"dev_uar": 0.5}, is_held=True)

proposals = Listed([Proposal({"i": i, "folder": str(folder)}) for i in range(3)])
runtime.start_ray()
with Ledger(folder / "ledger.jsonl").lock():
    run_trials(folder, proposals, train, Resources(), partial(count_slots, Resources()))
"""


def _start_driver(
    folder: Path, code: str = _DRIVER, address: str | None = None
) -> subprocess.Popen[bytes]:
    """A driver in its own process, on the cluster of the tests or another one."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "RAY_ADDRESS": address or ray.get_runtime_context().gcs_address,
        "RAY_AUTH_MODE": "token",
    }
    with (folder / "driver.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], env=environment, stdout=log, stderr=log
        )


def _wait(condition: Callable[[], bool], driver: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert driver.poll() in (None, 0), "the driver broke"
        if driver.poll() == 0:
            return
        time.sleep(0.005)


def _is_busy(path: Path, num_lines: int) -> bool:
    """Whether so much has happened, and a trial is running: between two nothing is interrupted."""
    if _num_lines(path) < num_lines:
        return False
    return any(trial.state == "running" for trial in Ledger(path).replay().current())


def _num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="module")
def expected(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Replay:
    """The sweep that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    assert _start_driver(folder).wait() == 0, (folder / "driver.log").read_text()
    return Ledger(folder / "ledger.jsonl").replay()


def _check_survivors(found: Replay, expected: Replay, path: Path) -> Counter[tuple[Any, Any]]:
    """None lost, none proposed or finished twice, and the same ones stopped; returns the events."""
    assert len(found.trials) == 60
    assert _states(found) == _states(expected)
    assert {"finished", "pruned"} == set(_states(found))
    assert [t.params for t in found.current()] == [t.params for t in expected.current()]
    events = Counter((r["event"], r.get("trial")) for r in Ledger(path).read())
    assert all(events["proposed", number] == 1 for number in range(60))
    assert all(events["finished", number] <= 1 for number in range(60))
    return events


@pytest.mark.timeout(1800)
def test_a_sweep_whose_driver_is_killed_five_times_ends_with_the_same_survivors(
    expected: Replay, tmp_path: Path
) -> None:
    path, rng = tmp_path / "killed" / "ledger.jsonl", random.Random(3)
    for _ in range(5):
        target = _num_lines(path) + rng.randrange(5, 45)
        driver = _start_driver(path.parent)
        _wait(partial(_is_busy, path, target), driver)
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
    last = _start_driver(path.parent)
    assert last.wait() == 0, (path.parent / "driver.log").read_text()

    events = _check_survivors(Ledger(path).replay(), expected, path)
    assert max(events["started", number] for number in range(60)) >= 2  # some were interrupted
    assert events["closed", None] == 1


def test_ctrl_c_lets_running_trials_stop_and_the_next_start_goes_on(
    ray_cluster: None, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.jsonl"
    driver = _start_driver(tmp_path)
    _wait(lambda: _num_lines(path) >= 20, driver)
    driver.send_signal(signal.SIGINT)
    assert driver.wait() == 0, (tmp_path / "driver.log").read_text()
    replay = Ledger(path).replay()
    assert replay.stopped == "stopped by Ctrl-C"
    assert "running" not in _states(replay)
    assert len(replay.trials) < 60
    again = _start_driver(tmp_path)
    assert again.wait() == 0, (tmp_path / "driver.log").read_text()
    replay = Ledger(path).replay()
    assert replay.stopped is None
    assert len(replay.ended()) == 60
    assert json.loads(path.read_text().splitlines()[-1])["event"] == "closed"


def test_a_second_ctrl_c_does_not_wait_for_trials(ray_cluster: None, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    driver = _start_driver(tmp_path, _STUCK)
    _wait(lambda: "running" in _states(Ledger(path).replay()), driver)
    driver.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert driver.poll() is None  # it waits for the trial, which does not report
    driver.send_signal(signal.SIGINT)
    assert driver.wait() != 0
    assert "finished" not in _states(Ledger(path).replay())
    (tmp_path / "go").touch()
    again = _start_driver(tmp_path, _STUCK)
    assert again.wait() == 0, (tmp_path / "driver.log").read_text()
    assert _states(Ledger(path).replay()) == ["finished"] * 3


def test_a_sweep_has_one_driver_at_a_time(ray_cluster: None, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    driver = _start_driver(tmp_path, _STUCK)
    _wait(lambda: "running" in _states(Ledger(path).replay()), driver)
    records = Ledger(path).read()
    message = rf"must have one driver at a time, process {driver.pid} on .* is running it"
    with pytest.raises(InputError, match=message):
        _run(tmp_path, _accident(str(tmp_path)), [{"kind": "none"}])
    assert Ledger(path).read() == records
    (tmp_path / "go").touch()
    assert driver.wait() == 0, (tmp_path / "driver.log").read_text()


def test_workers_that_are_killed_change_no_survivor(expected: Replay, tmp_path: Path) -> None:
    (tmp_path / "workers-die").touch()
    driver = _start_driver(tmp_path)
    assert driver.wait() == 0, (tmp_path / "driver.log").read_text()
    path = tmp_path / "ledger.jsonl"
    found = Ledger(path).replay()
    _check_survivors(found, expected, path)
    assert sum(trial.deaths for trial in found.current()) == len(list(tmp_path.glob("died-*"))) > 0


def test_a_node_that_is_killed_loses_no_trial_and_changes_no_survivor(
    expected: Replay, tmp_path: Path
) -> None:
    """One of a cluster's two machines goes away in the middle of a sweep."""
    from ray.cluster_utils import Cluster

    path = tmp_path / "torn" / "ledger.jsonl"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        driver = _start_driver(path.parent, address=cluster.address)
        _wait(lambda: _num_lines(path) >= 60, driver)
        cluster.remove_node(node, allow_graceful=False)
        assert driver.wait() == 0, (path.parent / "driver.log").read_text()
    finally:
        cluster.shutdown()
    _check_survivors(Ledger(path).replay(), expected, path)


def test_hours_that_are_used_up_stop_the_sweep_and_more_go_on(
    ray_cluster: None, tmp_path: Path
) -> None:
    def train(number: int, params: Mapping[str, Any], reports: Reports) -> None:
        reports.step(1, {"dev_uar": 0.5})

    params = [{"i": i} for i in range(4)]
    replay = _run(tmp_path, train, params, limits=Limits(hours=1e-9))
    assert replay.stopped == "the budget of 1e-09 hours is used up"
    assert len(replay.ended()) < 4
    replay = _run(tmp_path, train, params)
    assert replay.stopped is None
    assert _states(replay) == ["finished"] * 4
