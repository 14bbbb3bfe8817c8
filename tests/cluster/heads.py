"""Ray heads that a test starts for itself, and ends by process id and nothing else."""

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

TOKEN = "a-token-of-the-tests-own-0123456789abcdef"
_PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "object-manager-port",
    "node-manager-port",
    "ray-client-server-port",
)
_OWN_PORTS = range(20_000, 32_000)  # and above those of Ray's workers


def environment(token: str = TOKEN) -> dict[str, str]:
    """For a head and its clients: this interpreter, a token, and no other cluster's address."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextlib.contextmanager
def head(temp_dir: Path, num_cpus: int) -> Iterator[str]:
    """A head on loopback; yields the address of its dashboard."""
    ports = _free_ports(len(_PORTS))
    named = [f"--{name}={port}" for name, port in zip(_PORTS, ports, strict=True)]
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"),
        *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"),
        *(f"--num-cpus={num_cpus}", f"--temp-dir={temp_dir}", "--object-store-memory=200000000"),
        *named,
    ]
    with (temp_dir.parent / f"{temp_dir.name}.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_for(ports[1], process, Path(log.name))
        yield f"http://127.0.0.1:{ports[1]}"
    finally:
        _end(process)


def _free_ports(count: int) -> list[int]:
    """Below those that the kernel deals out: between here and the head, nobody is given one."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_OWN_PORTS, 100):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
    return found[:count]


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    while True:  # the test's time limit ends this
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The head and all that it started, by their ids."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    process.kill()
    process.wait()
    for child in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()  # psutil compares start times: never another process of the same id
    psutil.wait_procs(started, timeout=20)
