"""An object store for tests: moto's S3 server in this process, whose servers all have the same objects."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

_KEYS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}


@contextlib.contextmanager
def serving(host: str = "127.0.0.1", port: int = 0) -> Iterator[ThreadedMotoServer]:
    """A server that answers; port 0: any free one."""
    server = ThreadedMotoServer(host, port, verbose=False)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def upload(server: ThreadedMotoServer, folder: Path) -> str:
    """A new bucket with every file of `folder`: its URI, with `%s` for a path in it.

    Its name is its own: moto keeps buckets for as long as the process lives, whatever server was asked for them.
    """
    bucket = f"set-{uuid.uuid4().hex}"
    host, port = server.get_host_and_port()
    with contextlib.closing(boto3.client("s3", endpoint_url=f"http://{host}:{port}", **_KEYS)) as client:
        client.create_bucket(Bucket=bucket)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.upload_file(str(path), bucket, str(path.relative_to(folder)))
    return f"s3://key:secret@{bucket}/%s?region=us-east-1&scheme=http&endpoint_override={host}:{port}"
