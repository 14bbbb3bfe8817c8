"""An S3 server on loopback, and machines: caches of their own in front of one bucket."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from serkd.storage.mirror import open_storage
from serkd.storage.objects import connect


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket's URI; the environment says where its server is."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="corpus-lab")
        connect.cache_clear()
        yield "s3://corpus-lab"
        connect.cache_clear()
    server.stop()


@pytest.fixture
def uri(s3: str) -> str:
    """An empty storage."""
    return f"{s3}/{uuid.uuid4().hex}"


Machine = Callable[[str], Path]


@pytest.fixture
def machine(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """What the storage's folder is on a machine of some name."""

    def open_there(name: str) -> Path:
        monkeypatch.setenv("SERKD_CACHE", str(tmp_path / name))
        return open_storage(uri)

    return open_there
