"""A sweep as a Ray job: what ``serkd submit`` sends to a cluster, and how its log is followed."""

import asyncio
import os
import re
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serkd.errors import InputError, refuse

# beside what .gitignore names, which Ray leaves out too
EXCLUDES = (".git", ".venv", "venv", "serkd-storage", "serkd-quickstart", "__pycache__")
_TOO_LARGE = re.compile(r"status code 413|exceeds the maximum size")
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # go before what Ray is told
_CONNECT_S = 10.0


@dataclass(frozen=True)
class Submission:
    """A job: its command, what is sent with it, and what it holds while it runs."""

    command: Sequence[str]
    working_dir: Path
    excludes: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    job_id: str | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The checkout is the working directory and comes first on the path of all workers."""
        return {
            "working_dir": str(self.working_dir),
            "excludes": [*EXCLUDES, *self.excludes],
            "env_vars": {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1", **self.env},
        }


class Head:
    """The head of a cluster, by its dashboard's address; the token is that of the environment."""

    def __init__(self, address: str) -> None:
        """Connect.

        Raises:
            InputError: no such address, nobody answers there, or the token is refused.
        """
        self.address = address.rstrip("/")
        _require_answer(self.address)
        _choose_token()
        from ray.job_submission import JobSubmissionClient

        with _own_address(), self._reported():
            self.client = JobSubmissionClient(self.address)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise InputError(
                f"{self.address} must be sent its token, but what it got was refused: set "
                "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, or copy ~/.ray/auth_token of the head to "
                "that place here"
            ) from error
        except (ConnectionError, ValueError) as error:
            raise InputError(
                f"{self.address} must be the dashboard of a Ray head: {error}"
            ) from error

    def submit(self, job: Submission) -> str:
        """Send the working directory and start the job; returns its id.

        Raises:
            InputError: the working directory is too large, or there is a job of that id.
        """
        if job.job_id is not None and job.job_id in (known := self._jobs()):
            raise InputError(
                f"--job-id must be new, {job.job_id} is {known[job.job_id]}; follow it with\n"
                f"{self._follow(job.job_id)}"
            )
        try:
            return self.client.submit_job(
                entrypoint=shlex.join(job.command),
                submission_id=job.job_id,
                runtime_env=job.runtime_env,
                entrypoint_num_cpus=job.num_cpus,
                entrypoint_num_gpus=job.num_gpus or None,
            )
        except (RuntimeError, ValueError) as error:
            if _TOO_LARGE.search(str(error)) is None:
                raise
            raise InputError(
                f"--working-dir must be at most 100 MiB when it is packed, {job.working_dir} is "
                f"more, and most of it is {_largest(job)}: leave it out with --exclude, or name "
                "it in .gitignore"
            ) from error

    def _jobs(self) -> dict[str, str]:
        jobs = self.client.list_jobs()
        return {job.submission_id: str(job.status) for job in jobs if job.submission_id}

    def follow(self, job_id: str) -> str:
        """Print the job's log until it ends; returns its status.

        Raises:
            ConnectionError: the head went away. The job may still run.
        """
        try:
            asyncio.run(_print(self.client.tail_job_logs(job_id)))
            return str(self.client.get_job_status(job_id).value)
        except (OSError, RuntimeError) as error:
            raise ConnectionError(
                f"{self.address} does not answer any more, job {job_id} may still run:\n"
                f"{self.how_to_return(job_id)}"
            ) from error

    def _follow(self, job_id: str) -> str:
        return f"  RAY_AUTH_MODE=token ray job logs {job_id} --follow --address {self.address}"

    def how_to_return(self, job_id: str) -> str:
        """Commands that find the job again."""
        follow = self._follow(job_id)
        return "\n".join(
            (
                follow,
                follow.replace("logs", "status", 1).replace(" --follow", ""),
                f"{follow.replace('logs', 'stop', 1).replace(' --follow', '')}"
                "   # then submit again: it goes on from its storage",
            )
        )


async def _print(lines: AsyncIterator[str]) -> None:
    async for text in lines:
        sys.stdout.write(text)
        sys.stdout.flush()


def _require_answer(address: str) -> None:
    found = urlsplit(address)
    if found.scheme not in ("http", "https") or not found.hostname:
        raise InputError(f"--address must be like http://head:8265, got {address}")
    try:
        port = found.port or {"http": 80, "https": 443}[found.scheme]
        socket.create_connection((found.hostname, port), timeout=_CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"--address must be where a Ray head's dashboard answers, {address} does not: {error}"
        ) from error


def _choose_token() -> None:
    """Ray's client sends a token only when it is told to, and its clusters ask for one."""
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if any(map(os.environ.get, names)) or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def _own_address() -> Iterator[None]:
    """Without the variables that Ray's client would go by instead."""
    kept = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ |= kept


def _largest(job: Submission) -> str:
    """The largest entries of the working directory, as far as our own list goes."""
    sizes = {
        path.name: sum(p.lstat().st_size for p in (path, *path.rglob("*")) if p.is_file())
        for path in job.working_dir.iterdir()
        if path.name not in (*EXCLUDES, *job.excludes)
    }
    first = sorted(sizes, key=sizes.__getitem__, reverse=True)[:3]
    return ", ".join(f"{name} ({sizes[name] / 2**20:.0f} MiB)" for name in first)


def check_paths(space: Path, working_dir: Path, storage: str, manifests: Sequence[str]) -> None:
    """Refuse what no other machine could find.

    Raises:
        InputError: a space outside the working directory, a storage or manifests by relative paths.
    """
    from serkd.storage.objects import check_uri, is_uri

    problems = []
    if not space.resolve().is_relative_to(working_dir.resolve()):
        problems.append(f"SPACE must be below --working-dir {working_dir}, got {space}")
    if is_uri(storage):
        check_uri("--storage", storage)
    elif not Path(storage).is_absolute():
        problems.append(
            "--storage must be s3://bucket/path, gs://bucket/path, or the full path of a folder "
            f"that all machines share, got {storage}"
        )
    problems += [
        f"corpus.manifest must be a full path, which the cluster's machines have, got {path}"
        for path in manifests
        if not Path(path).is_absolute()
    ]
    refuse(problems)
