"""Whether the Hugging Face hub has a model, asked before its job is taken: a wrong name is told at once.

An answer that does not come is no answer: the job is taken with a note, and whoever loads the model finds out.
"""

import time
from functools import lru_cache

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, RepositoryNotFoundError

ANSWER_S = 3.0
REMEMBERED_S = 60


def hub_mistake(model: str) -> str | None:
    """Why no service can load the hub's `model`; None where it can, and where that is not known."""
    return _asked(model).mistake


def hub_note(model: str) -> str | None:
    """Why it is not known whether the hub has `model`; None where it is."""
    return _asked(model).note


class _Answer:
    """At most one of the two sentences."""

    def __init__(self, mistake: str | None = None, note: str | None = None) -> None:
        self.mistake, self.note = mistake, note


def _asked(model: str) -> _Answer:
    return _ask(model, int(time.monotonic() // REMEMBERED_S))


@lru_cache(maxsize=256)
def _ask(model: str, _minute: int) -> _Answer:
    if isinstance(try_to_load_from_cache(model, "config.json"), str):
        return _Answer()
    if constants.HF_HUB_OFFLINE:
        return _unknown(model, "HF_HUB_OFFLINE is set, and it is not in the cache")
    try:
        HfApi().model_info(model, timeout=ANSWER_S)
    except GatedRepoError:
        return _Answer(f"model {model!r} is gated on the hub; accept its terms there and set HF_TOKEN")
    except RepositoryNotFoundError:
        return _Answer(
            f"model {model!r}: the hub has none of that name, or it is private and HF_TOKEN does not open it; "
            "expected a folder with a config.json, or owner/name as on the hub"
        )
    except HfHubHTTPError as error:
        return _unknown(model, f"HTTP {error.response.status_code}")
    # HTTPError is that of the HTTP library which huggingface_hub has, httpx2 or httpx; of requests all are OSErrors.
    except (HTTPError, OSError, ValueError) as error:  # ValueError: a proxy's page in its place
        return _unknown(model, type(error).__name__)
    return _Answer()


def _unknown(model: str, reason: str) -> _Answer:
    return _Answer(
        note=f"model {model!r}: there is no folder of that name, so it is a hub id, and the hub does not answer "
        f"({reason}): whether it has the model shows when the job begins"
    )
