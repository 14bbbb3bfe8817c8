"""Single flight: who may compute a key, and what ends that right."""

import subprocess
import sys
import threading
from pathlib import Path

import ray

from serkd.stages.lease import LeaseTable, hold


def test_a_second_holder_waits_until_the_first_releases() -> None:
    table = LeaseTable()
    assert table.acquire("key", "a", now=0.0)
    assert not table.acquire("key", "b", now=1.0)
    assert table.acquire("another key", "b", now=1.0)
    table.release("key", "a")
    assert table.acquire("key", "b", now=2.0)


def test_a_lease_that_is_not_renewed_for_thirty_seconds_is_lost() -> None:
    table = LeaseTable()
    assert table.acquire("key", "a", now=100.0)
    assert not table.acquire("key", "b", now=129.9)
    assert table.acquire("key", "b", now=130.0)
    assert not table.acquire("key", "a", now=131.0)


def test_renewing_keeps_a_lease_for_ever() -> None:
    table = LeaseTable()
    for now in range(0, 1_000, 25):
        assert table.acquire("key", "a", now=float(now))
        assert not table.acquire("key", "b", now=now + 24.0)


def test_only_the_holder_can_release() -> None:
    table = LeaseTable()
    table.release("key", "a")  # nobody holds it: no matter
    assert table.acquire("key", "a", now=0.0)
    table.release("key", "b")
    assert not table.acquire("key", "b", now=1.0)


def test_a_late_release_does_not_take_the_lease_from_its_next_holder() -> None:
    table = LeaseTable()
    assert table.acquire("key", "slow", now=0.0)
    assert table.acquire("key", "next", now=60.0)
    table.release("key", "slow")
    assert not table.acquire("key", "third", now=61.0)


def _hold_in_turn(first_lock: Path, second_lock: Path) -> list[str]:
    """Hold one key in two threads, the second of which asks while the first holds."""
    events: list[str] = []
    asked, entered = threading.Event(), threading.Event()

    def second() -> None:
        asked.set()
        with hold("key", second_lock):
            events.append("second")
            entered.set()

    with hold("key", first_lock):
        thread = threading.Thread(target=second)
        thread.start()
        asked.wait()
        entered.wait(1.5)  # would be set at once if nothing kept the second one out
        events.append("first")
    thread.join()
    return events


def test_on_a_cluster_the_lease_alone_keeps_the_second_out(
    ray_cluster: None, tmp_path: Path
) -> None:
    """Different lock files, as on nodes that share no locks."""
    assert _hold_in_turn(tmp_path / "a.lock", tmp_path / "b.lock") == ["first", "second"]


def test_the_death_of_the_lease_actor_ends_nobodys_work(ray_cluster: None, tmp_path: Path) -> None:
    """A new one takes its place, and whoever held a lease goes on."""
    with hold("first", tmp_path / "first.lock"):
        ray.kill(ray.get_actor("serkd-leases", namespace="serkd"))
        with hold("second", tmp_path / "second.lock"):
            pass
    with hold("first", tmp_path / "first.lock"):
        pass


_HOLDER = """
import sys
from pathlib import Path
from serkd.stages.lease import hold

with hold("key", Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_frees_its_lock(tmp_path: Path) -> None:
    lock = tmp_path / "key.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        entered = threading.Event()

        def wait_for_it() -> None:
            with hold("key", lock):
                entered.set()

        waiting = threading.Thread(target=wait_for_it, daemon=True)
        waiting.start()
        assert not entered.wait(1.0)
        holder.kill()
        waiting.join(timeout=60)
        assert entered.is_set()
    finally:
        holder.kill()
        holder.communicate()
