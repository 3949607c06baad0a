"""A command that is given while `triune up` is still starting waits for it."""

import time
from urllib.parse import urlsplit

import httpx

from shared.runtime.settings import Settings, local_folder, read_settings
from triune.cli.errors import console
from triune.local.deployment import READY_S
from triune.local.lock import is_locked

GRACE_S = 3.0
"""How long after each other the two may have been called."""
_LOOK_S = 0.2


def settings_once_up() -> Settings:
    """The settings once the API answers, where it is one of this machine that may be starting; else at once.

    They are read again at the end: the first start draws the token.
    """
    settings = read_settings()
    if urlsplit(settings.api_url).hostname not in ("127.0.0.1", "localhost"):
        return settings
    began, is_told = time.monotonic(), False
    while not _answers(settings):
        starts = is_locked(local_folder(settings.runs))
        if time.monotonic() > began + (READY_S if starts else GRACE_S):
            break
        if starts and not is_told:
            console.print("waiting for `triune up`, which is starting")
            is_told = True
        time.sleep(_LOOK_S)
    return read_settings()


def _answers(settings: Settings) -> bool:
    try:
        return httpx.get(f"{settings.api_url}/healthz", timeout=1.0, trust_env=False).is_success
    except httpx.TransportError:
        return False
