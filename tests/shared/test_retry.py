"""The policy towards peers that are away."""

import asyncio
import threading

import pytest
from structlog.testing import capture_logs

from shared.errors import BlobMissing, Corrupt, Unavailable
from shared.messages import BlobRef
from shared.runtime.retry import Retry, time_left, within
from tests.fakes import AwayBlobs, eventually


class Peer:
    """Answers once it is `back`."""

    def __init__(self) -> None:
        self.tries = 0
        self.back = asyncio.Event()

    async def ask(self) -> str:
        self.tries += 1
        if not self.back.is_set():
            raise Unavailable("nobody answers")
        return "here"


async def test_a_peer_that_is_away_is_asked_again_until_it_is_back_and_the_state_says_so() -> None:
    retry, peer = Retry(longest_pause_s=0.01), Peer()
    asking = [asyncio.ensure_future(retry.until_back("the peer", peer.ask)) for _ in range(2)]

    async def is_trying() -> bool:
        return peer.tries > 20

    await eventually(is_trying)
    assert retry.waiting_for == "the peer"
    peer.back.set()
    assert await asyncio.gather(*asking) == ["here", "here"]
    assert retry.waiting_for == ""


async def test_the_log_says_it_once_a_minute_however_many_wait() -> None:
    retry, peer = Retry(longest_pause_s=0.01), Peer()

    async def is_trying() -> bool:
        return peer.tries > 50

    with capture_logs() as said:  # whatever an earlier test has made of the log's form and place
        asking = [asyncio.ensure_future(retry.until_back("the peer", peer.ask)) for _ in range(5)]
        await eventually(is_trying)
        peer.back.set()
        await asyncio.gather(*asking)
    assert [(one["event"], one["peer"]) for one in said] == [
        ("waiting for a peer that is away", "the peer"),
        ("waited for no longer", "the peer"),
    ]


async def test_past_its_limit_a_wait_ends_with_the_peers_own_error() -> None:
    retry = Retry(longest_pause_s=0.01)
    with pytest.raises(Unavailable, match="nobody answers"):
        await retry.until_back("the peer", Peer().ask, limit_s=0.1)
    with pytest.raises(Unavailable, match="nobody answers"), within(0.1):
        await retry.until_back("the peer", Peer().ask)
    assert retry.waiting_for == ""


async def test_the_nearer_of_two_limits_holds() -> None:
    assert time_left() is None
    with within(100.0), within(1.0), within(10.0):
        left = time_left()
        assert left is not None
        assert left <= 1.0
    assert time_left() is None


async def test_an_error_that_is_not_of_absence_is_raised_at_once() -> None:
    tries = []

    async def ask() -> None:
        tries.append(1)
        raise Corrupt("it is broken")

    with pytest.raises(Corrupt):
        await Retry().until_back("the peer", ask)
    assert len(tries) == 1


async def test_a_blob_that_is_missing_is_looked_for_a_few_times_only() -> None:
    retry, blobs, tries = Retry(longest_pause_s=0.01, missing_s=0.2), AwayBlobs(), []

    async def get() -> bytes:
        tries.append(1)
        return blobs.get(BlobRef(digest="0" * 64, size=1))

    with pytest.raises(BlobMissing):
        await retry.until_back("the blob store", get)
    assert len(tries) > 3


async def test_a_thread_that_waits_ends_when_the_process_stops() -> None:
    retry = Retry(longest_pause_s=100.0)
    asked = threading.Event()

    def ask() -> None:
        asked.set()
        raise Unavailable("nobody answers")

    waiting = asyncio.ensure_future(asyncio.to_thread(retry.block_until_back, "the peer", ask))
    assert await asyncio.to_thread(asked.wait, 5.0)
    retry.close()
    with pytest.raises(Unavailable):
        async with asyncio.timeout(5.0):
            await waiting


async def test_a_wait_that_is_cancelled_is_no_longer_told() -> None:
    retry, peer = Retry(longest_pause_s=0.01), Peer()
    asking = asyncio.ensure_future(retry.until_back("the peer", peer.ask))

    async def is_waiting() -> bool:
        return retry.waiting_for != ""

    await eventually(is_waiting)
    asking.cancel()
    await asyncio.wait({asking})
    assert retry.waiting_for == ""
