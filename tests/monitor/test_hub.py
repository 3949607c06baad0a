"""A model's name is asked of the hub before its job is taken; the hub itself is played here."""

import socket
from collections.abc import Callable

import httpx
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, RepositoryNotFoundError

from services.monitor.checks import hub


class Hub:
    """Answers as `outcome` says, and counts its questions."""

    def __init__(self, outcome: Exception | None) -> None:
        self.outcome, self.asked = outcome, 0

    def __call__(self) -> "Hub":
        return self

    def model_info(self, model: str, timeout: float) -> object:
        self.asked += 1
        if self.outcome is not None:
            raise self.outcome
        return object()


Play = Callable[[Exception | None], Hub]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    def play(outcome: Exception | None) -> Hub:
        hub._ask.cache_clear()
        answer = Hub(outcome)
        monkeypatch.setattr(hub, "HfApi", answer)
        return answer

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return play


def refused(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    return kind("no", response=httpx.Response(status, request=httpx.Request("GET", "https://hub.example")))


def test_a_name_that_the_hub_does_not_have_is_a_mistake(play: Play) -> None:
    play(refused(RepositoryNotFoundError, 404))
    assert "the hub has none of that name" in (hub.hub_mistake("org/nmae") or "")
    assert hub.hub_note("org/nmae") is None


def test_a_gated_model_says_what_to_do(play: Play) -> None:
    play(refused(GatedRepoError, 403))
    assert "is gated on the hub; accept its terms there and set HF_TOKEN" in (hub.hub_mistake("org/gated") or "")


@pytest.mark.parametrize(
    "outcome",
    [
        HTTPError("no route"),
        OSError("no certificates"),
        ValueError("a proxy's page is no JSON"),
        refused(HfHubHTTPError, 500),
    ],
    ids=str,
)
def test_no_network_is_a_note_and_no_mistake(play: Play, outcome: Exception) -> None:
    play(outcome)
    assert hub.hub_mistake("org/name") is None
    assert "the hub does not answer" in (hub.hub_note("org/name") or "")


@pytest.mark.parametrize("model", ["org/name", "dm/modle", "modle"])
def test_where_the_hub_is_out_of_reach_its_own_library_s_error_is_a_note(
    monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    hub._ask.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with socket.socket() as bound:  # nobody listens
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{bound.getsockname()[1]}")
        assert hub.hub_mistake(model) is None
        note = hub.hub_note(model) or ""
    assert note.startswith(f"model {model!r}: there is no folder of that name, so it is a hub id, and the hub does not")


def test_a_model_that_is_there_is_asked_for_once(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "REMEMBERED_S", 10**9)  # no minute ends in between
    answer = play(None)
    assert (hub.hub_mistake("org/name"), hub.hub_note("org/name")) == (None, None)
    assert answer.asked == 1
