"""Discovery as in V-Triune: an empty file `.reward_server/<JOB_ID>/<IP>:<PORT>` in the folder the server started in.

Its trainers read the names of these files and ask each address. Deviation: the file goes when the server does.
"""

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from shared.errors import UserError

_FOLDER = ".reward_server"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ANY = ("0.0.0.0", "::", "")


@contextlib.contextmanager
def announced(job_id: str | None, host: str, port: int) -> Iterator[None]:
    """Keep the file there inside the block; nothing without a `job_id`.

    Raises UserError for an id that is no plain file name and for a folder that cannot be written.
    """
    if job_id is None:
        yield
        return
    if not _NAME.fullmatch(job_id):
        raise UserError(f"JOB_ID is {job_id!r}; expected letters, digits, dots, - and _")
    file = Path(_FOLDER, job_id, f"{own_address() if host in _ANY else host}:{port}").absolute()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:
        raise UserError(f"cannot announce the server as {file}: {error.strerror}") from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other servers of the job are still announced
            file.parent.rmdir()


def own_address() -> str:
    """The address that other machines reach this one by; 127.0.0.1 without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(
                ("192.0.2.1", 9)
            )  # a documentation address: nothing is sent, the route says which one is ours
            address: str = probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"
    return address
