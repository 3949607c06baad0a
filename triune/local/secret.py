"""Secrets of what runs on this machine: generated once, in files that only their owner can read."""

import contextlib
import os
import secrets
from pathlib import Path

from shared.errors import UserError

_BYTES = 24


def local_secret(path: Path) -> str:
    """The secret in `path`, drawn when there is none; raises UserError when others may read the file."""
    if not path.exists():
        _draw(path)
    if path.stat().st_mode & 0o077:
        raise UserError(f"{path} holds a secret and can be read by others, expected mode 600")
    return path.read_text()


def _draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        write_private(temporary, secrets.token_urlsafe(_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # whole or not at all, and never over another's
    finally:
        temporary.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """`text` in `path`, which nobody else can read at any moment."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
