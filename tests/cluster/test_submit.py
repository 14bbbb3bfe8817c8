"""`serkd submit` against a head that the test starts: logs, results, going on, refusals."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from heads import TOKEN, environment, head
from typer.testing import CliRunner

from serkd.cli import app
from serkd.errors import InputError
from serkd.search.ledger import Ledger
from serkd.search.submit import Head, Submission

pytestmark = pytest.mark.slow

SPACE = {
    "sampler": "random",
    "scheduler": {"name": "none"},
    "space": {"distill.alpha": {"float": [0.1, 0.9]}},
}


@pytest.fixture(scope="module")
def temp_dir() -> Iterator[Path]:
    """Short: the names of Ray's sockets below it may have a hundred characters."""
    with tempfile.TemporaryDirectory(prefix="rh", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def checkout(tiny_recipe: Path, tmp_path: Path) -> Path:
    """What is sent: a space and its recipe, as in a checkout."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(tiny_recipe, folder / "tiny.yaml")
    (folder / "space.yaml").write_text(json.dumps({**SPACE, "base": "tiny.yaml"}))
    return folder


def _submit(
    checkout: Path, address: str, *options: str, token: str = TOKEN
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serkd", "submit", "space.yaml", "--address", address]
    return subprocess.run(
        [*command, *options],
        cwd=checkout,
        env=environment(token),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_a_sweep_is_submitted_and_after_a_new_head_goes_on_from_its_storage(
    checkout: Path, tmp_path: Path, temp_dir: Path
) -> None:
    storage = tmp_path / "storage"
    to = ("--storage", str(storage))
    with head(temp_dir / "1", num_cpus=2) as address:
        done = _submit(checkout, address, *to, "--trials", "1", "--job-id", "first")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "job          first at http" in done.stdout
        assert "ray job logs first --follow --address" in done.stdout
        assert "stage requests" in done.stdout.partition("ray job stop")[2]  # the job's own log
        (ledger_path,) = storage.glob("sweeps/*/ledger.jsonl")
        before, stages = Ledger(ledger_path).trials(), set(storage.glob("stages/[!.]*/*"))
        assert [trial["state"] for trial in before] == ["finished"]
        _check_refusals(checkout, address, to)
    with head(temp_dir / "2", num_cpus=2) as address:
        more = _submit(checkout, address, *to, "--trials", "2", "--job-id", "first")
        assert more.returncode == 0, more.stdout + more.stderr
    after = Ledger(ledger_path).trials()
    assert after[:1] == before
    assert [trial["state"] for trial in after] == ["finished", "finished"]
    assert {path.parent.name for path in set(storage.glob("stages/[!.]*/*")) - stages} == {
        "student"
    }


def _check_refusals(checkout: Path, address: str, to: tuple[str, str]) -> None:
    """While a head is there."""
    again = _submit(checkout, address, *to, "--job-id", "first")
    assert (again.returncode, again.stdout) == (2, "")
    assert "--job-id must be new, first is SUCCEEDED" in again.stderr
    refused = _submit(checkout, address, *to, token="another")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "what it got was refused: set RAY_AUTH_TOKEN" in refused.stderr
    with (checkout / "clips.bin").open("wb") as file:
        file.truncate(101 * 2**20)
    large = _submit(checkout, address, *to)
    assert large.returncode == 2, large.stderr
    assert "--working-dir must be at most 100 MiB" in large.stderr
    assert "clips.bin (101 MiB)" in large.stderr
    (checkout / "clips.bin").unlink()
    for result in (again, refused, large):
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("head:8265", "--address must be like http://head:8265"),
        ("http://127.0.0.1:1", "must be where a Ray head's dashboard answers"),
        ("http://no-such-host.invalid:8265", "must be where a Ray head's dashboard answers"),
    ],
)
def test_an_address_where_no_head_is_gives_one_message(address: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Head(address)


def test_what_other_machines_could_not_find_is_refused_at_once(checkout: Path) -> None:
    result = _submit(
        checkout,
        "http://127.0.0.1:1",
        *("--storage", "serkd-storage", "--set", "corpus.manifest=mine.parquet"),
        *("--working-dir", "/usr"),
    )
    assert result.returncode == 2
    for problem in ("SPACE must be below", "--storage must be s3://", "must be a full path"):
        assert problem in result.stderr


class _Sent:
    """Stands for a head; keeps what it was sent."""

    jobs: ClassVar[list[Submission]] = []

    def __init__(self, address: str) -> None:
        self.address = address

    def submit(self, job: Submission) -> str:
        self.jobs.append(job)
        return "one"

    def how_to_return(self, job_id: str) -> str:
        return job_id


def test_a_reduced_sweep_is_sent_without_a_corpus(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job makes the built-in one; without --smoke a path of this machine is refused."""
    monkeypatch.setattr("serkd.search.submit.Head", _Sent)
    monkeypatch.chdir(checkout)
    recipe = json.loads((checkout / "tiny.yaml").read_text())
    recipe["corpus"]["manifest"] = "mine.parquet"
    (checkout / "tiny.yaml").write_text(json.dumps(recipe))
    words = ["submit", "space.yaml", "--address", "http://head:1", "--storage", "/shared"]
    found = CliRunner().invoke(app, [*words, "--smoke", "--no-wait"])
    assert found.exception is None, found.exception
    assert _Sent.jobs[-1].command[2:] == [
        *("serkd", "sweep", "space.yaml", "--storage", "/shared", "--smoke")
    ]
    refused = CliRunner().invoke(app, [*words, "--no-wait"])
    assert isinstance(refused.exception, InputError)
    assert "corpus.manifest must be a full path" in str(refused.exception)
    assert len(_Sent.jobs) == 1
