"""What only a real nats-server can show: crashes, full streams, foreign hands, bodies in the blob store."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import ServiceUnavailableError
from opentelemetry import propagate, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from shared.blobs.store import BlobStore
from shared.bus.nats import link, work
from shared.bus.nats.bus import NatsBus
from shared.bus.nats.pull import Puller
from shared.bus.port import MAX_BODY_BYTES
from shared.errors import Corrupt, Unavailable, UserError
from shared.messages import DeadLetter, JobChanged, Voided
from shared.runtime.retry import Retry, within
from tests.fakes import AwayBlobs, eventually, make_completed, make_id, make_prompt, make_scored
from triune.local.process import free_port, port_is_free
from triune.local.servers import NatsServer

pytestmark = pytest.mark.nats

ACK_WAIT_S = 0.5
LIMIT_S = 20.0
SOON_S = 0.05


@pytest.fixture
async def bus(own_nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[NatsBus]:
    store = BlobStore((tmp_path / "blobs").as_uri())
    one = await NatsBus.connect(own_nats_server.url, blobs=store, ack_wait_s=ACK_WAIT_S)
    yield one
    await one.close()


@pytest.fixture
async def client(own_nats_server: NatsServer) -> AsyncIterator[nats.NATS]:
    """A foreign hand on the same server."""
    one = await nats.connect(own_nats_server.url)
    yield one
    await one.close()


async def prompts(bus: NatsBus, ordinals: range) -> None:
    for ordinal in ordinals:
        await bus.publish("prompts", "j", "train", make_prompt(ordinal, job="j"), make_id("j", ordinal))


async def is_empty(bus: NatsBus, stream: str) -> bool:
    return (await bus.stream_state(stream)).messages == 0


async def test_no_server_is_one_sentence_that_keeps_the_password() -> None:
    port = free_port()
    with pytest.raises(Unavailable) as error:
        await NatsBus.connect(f"nats://me:secret@127.0.0.1:{port}", connect_limit_s=0.2)
    assert str(error.value) == f"no nats-server answered at nats://127.0.0.1:{port} within 0.2 s"


async def test_a_refused_token_is_a_users_error_at_once(tmp_path: Path) -> None:
    class WithToken(NatsServer):
        def _command(self) -> list[str]:
            command = super()._command()
            store = f'jetstream {{ store_dir: "{self.folder}" }}'
            listen = f"listen: 127.0.0.1:{self.port}"
            Path(command[-1]).write_text(f'{listen}\n{store}\nauthorization {{ token: "right" }}\n')
            return command

        def _answers(self) -> bool:
            return not port_is_free(self.port)

    with contextlib.closing(WithToken(tmp_path)) as server:
        server.start()
        url = f"nats://127.0.0.1:{server.port}"
        for token in (None, "wrong"):
            with pytest.raises(UserError, match="refuses our user, password or token"):
                await NatsBus.connect(url, token=token, connect_limit_s=LIMIT_S)
        await (await NatsBus.connect(url, token="right")).close()
        await (await NatsBus.connect(url.replace("nats://", "nats://right@"))).close()


@pytest.mark.parametrize("address", ["http://127.0.0.1", "nats://[", "127.0.0.1:4222", "nats://h:99999"])
async def test_an_address_that_is_none_is_a_users_error(address: str) -> None:
    with pytest.raises(UserError, match="NATS_URL"):
        await NatsBus.connect(address, connect_limit_s=0.2)


async def test_publishes_go_on_after_the_server_was_killed(bus: NatsBus, own_nats_server: NatsServer) -> None:
    async def publish_all() -> None:
        for ordinal in range(300):
            await bus.publish("prompts", "j", "train", make_prompt(ordinal, job="j"), make_id("j", ordinal))

    async with asyncio.timeout(LIMIT_S):
        publishing = asyncio.ensure_future(publish_all())

        async def some_are_there() -> bool:
            return (await bus.waiting("prompts", "j", "train"))[0] > 20

        await eventually(some_are_there)
        own_nats_server.kill()
        own_nats_server.start()
        await publishing
    assert await bus.waiting("prompts", "j", "train") == (300, 0)


async def test_a_fetch_waits_for_a_server_that_is_away(bus: NatsBus, own_nats_server: NatsServer) -> None:
    queue = await bus.work("prompts", "j", "train")
    await prompts(bus, range(2))
    own_nats_server.kill()
    assert list(await queue.fetch(4, 0.2)) == []
    fetching = asyncio.ensure_future(queue.fetch(4, 60.0))
    await asyncio.sleep(SOON_S)
    own_nats_server.start()
    async with asyncio.timeout(LIMIT_S):
        assert [d.message.ordinal for d in await fetching] == [0, 1]


async def test_a_fetch_that_waits_through_a_restart_gets_what_comes_after_it(
    bus: NatsBus, own_nats_server: NatsServer
) -> None:
    queue = await bus.work("prompts", "j", "train")
    fetching = asyncio.ensure_future(queue.fetch(4, 60.0))
    await asyncio.sleep(SOON_S)
    own_nats_server.kill()
    own_nats_server.start()
    async with asyncio.timeout(LIMIT_S):
        await prompts(bus, range(1))
        assert len(await fetching) == 1


async def test_no_acked_message_comes_back_and_no_stored_one_is_lost_over_kills(
    bus: NatsBus, own_nats_server: NatsServer
) -> None:
    queue = await bus.work("prompts", "j", "train")
    done: list[int] = []

    async def work() -> None:
        while len(set(done)) < 120:
            for delivery in await queue.fetch(5, 1.0):
                done.append(delivery.message.ordinal)
                await delivery.ack()

    async with asyncio.timeout(60.0):
        working = asyncio.ensure_future(work())
        for start in range(0, 120, 40):
            await prompts(bus, range(start, start + 40))
            own_nats_server.kill()
            own_nats_server.start()
        await working
    assert set(done) == set(range(120))


@contextlib.asynccontextmanager
async def requests(client: nats.NATS, stream: str) -> AsyncIterator[list[str]]:
    """The requests for messages of `stream` that the server gets meanwhile."""
    seen: list[str] = []

    async def note(message: Any) -> None:
        seen.append(message.data.decode())

    subscription = await client.subscribe(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.>", cb=note)
    await client.flush()
    yield seen
    await client.flush()
    await subscription.unsubscribe()


async def test_a_reader_of_a_log_does_not_ask_for_each_message(bus: NatsBus, client: nats.NATS) -> None:
    reader = await bus.read_journal("j", "train", start=1)
    async with requests(client, "scored") as asked:
        for ordinal in range(40):
            await bus.publish("scored", "j", "train", make_scored(ordinal, job="j"), make_id("j", ordinal))
            assert [entry.sequence for entry in await reader.fetch(8, LIMIT_S)] == [ordinal + 1]
    assert 40 / 8 <= len(asked) < 20  # each is for eight, or ends after a second
    await reader.close()


async def test_a_work_queue_is_asked_once_for_each_message_that_comes_alone(bus: NatsBus, client: nats.NATS) -> None:
    queue = await bus.work("prompts", "j", "train")
    assert await queue.fetch(8, 0.0) == []
    async with requests(client, "prompts") as asked:
        for ordinal in range(20):
            await prompts(bus, range(ordinal, ordinal + 1))
            (delivery,) = await queue.fetch(8, LIMIT_S)
            await delivery.ack()
    assert 20 <= len(asked) < 30
    assert all('"batch": 1,' in wish for wish in asked)  # more would be kept from other replicas


async def test_what_came_together_is_fetched_together(bus: NatsBus) -> None:
    queue = await bus.work("prompts", "j", "train")
    assert await queue.fetch(8, 0.0) == []
    await prompts(bus, range(9))
    fetched = [len(await queue.fetch(8, LIMIT_S)) for _ in range(2)]
    assert fetched == [1, 8]


async def test_a_reader_of_a_log_takes_no_more_than_it_was_asked_for(bus: NatsBus) -> None:
    reader = await bus.read_journal("j", "train", start=1)
    for ordinal in range(7):
        await bus.publish("scored", "j", "train", make_scored(ordinal, job="j"), make_id("j", ordinal))
    sequences: list[int] = []
    async with asyncio.timeout(LIMIT_S):
        assert len(await reader.fetch(5, LIMIT_S)) <= 5
        while reader.position < 7:
            found = await reader.fetch(2, LIMIT_S)
            assert len(found) <= 2
            sequences += [entry.sequence for entry in found]
    assert sequences == list(range(sequences[0], 8))
    await reader.close()


async def test_a_reader_that_stands_hears_of_a_purge_that_took_what_it_had_not_read(bus: NatsBus) -> None:
    reader = await bus.read_journal("j", "train", start=1)
    assert await reader.fetch(8, SOON_S) == []  # its request stands
    for ordinal in range(2):
        await bus.publish("scored", "k", "train", make_scored(ordinal, job="k"), make_id("k", ordinal))
    await reader.close()
    reader = await bus.read_journal("j", "train", start=1)
    for ordinal in range(3):
        await bus.publish("scored", "j", "train", make_scored(ordinal, job="j"), make_id("j", ordinal))
    await bus.purge("scored", "j", "train", below=5)
    with pytest.raises(Corrupt, match="was purged below sequence 5"):
        await reader.fetch(8, LIMIT_S)
    await reader.close()


class Relay:
    """A way to a server that can swallow what the server says, and break."""

    def __init__(self, server: NatsServer) -> None:
        self._server, self._writers = server, list[asyncio.StreamWriter]()
        self.swallows, self.swallowed = False, b""

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[str]:
        """Its address, with the server's user and password."""
        async with await asyncio.start_server(self._on_client, "127.0.0.1", 0) as listener:
            port = listener.sockets[0].getsockname()[1]
            yield self._server.url.replace(f":{self._server.port}", f":{port}")
            self.cut()

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", self._server.port)
        self._writers += [writer, requests]
        await asyncio.gather(self._pass_on(reader, requests), self._pass_on(answers, writer, is_answer=True))

    async def _pass_on(
        self, source: asyncio.StreamReader, to: asyncio.StreamWriter, *, is_answer: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if is_answer and self.swallows:
                    self.swallowed += data
                else:
                    to.write(data)
        to.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()


async def test_the_last_message_of_a_log_comes_though_it_was_on_a_connection_that_broke(
    bus: NatsBus, own_nats_server: NatsServer
) -> None:
    relay = Relay(own_nats_server)
    async with relay.opened() as url:
        far = await NatsBus.connect(url)
        reader = await far.read_journal("j", "train", start=1)
        await bus.publish("scored", "j", "train", make_scored(0, job="j"), make_id("j", 0))
        assert len(await reader.fetch(8, LIMIT_S)) == 1  # its request stands
        relay.swallows = True
        await bus.publish("scored", "j", "train", make_scored(1, job="j"), make_id("j", 1))

        async def is_swallowed() -> bool:
            return b"scored.j.train" in relay.swallowed

        await eventually(is_swallowed)
        relay.cut()
        relay.swallows = False
        assert [entry.sequence for entry in await reader.fetch(8, LIMIT_S)] == [2]
        await reader.close()
        await far.close()


async def test_a_reader_whose_request_has_ended_sends_another_at_once(bus: NatsBus, client: nats.NATS) -> None:
    reader = await bus.read_journal("j", "train", start=1)
    assert await reader.fetch(8, 1.0) == []  # as long as its request stands
    async with requests(client, "scored") as asked:
        await reader.fetch(8, 0.3)
    assert '"expires"' in asked[0]
    await reader.close()


@pytest.mark.parametrize("ack_wait_s", [None, 5.0], ids=["log", "work queue"])
async def test_a_server_that_refuses_a_request_is_not_asked_again_at_once(
    bus: NatsBus, client: nats.NATS, ack_wait_s: float | None
) -> None:
    """A consumer lets one request wait at a time (409, Exceeded MaxWaiting), and another client's does."""
    config = ConsumerConfig(
        name="narrow", ack_policy=AckPolicy.EXPLICIT, max_waiting=1, filter_subject="scored.j.train"
    )
    await client.jetstream().add_consumer("scored", config)
    taken = client.new_inbox()
    await client.publish("$JS.API.CONSUMER.MSG.NEXT.scored.narrow", b'{"batch": 1, "expires": 20000000000}', taken)
    await client.subscribe(taken)
    await client.flush()
    puller = Puller(bus._link, "scored", "narrow", ack_wait_s)
    async with requests(client, "scored") as asked:
        assert await puller.pull(1, 0.6) == []
    assert 1 <= len(asked) < 20
    await puller.close()


async def test_the_journal_is_read_whole_over_a_kill(bus: NatsBus, own_nats_server: NatsServer) -> None:
    reader = await bus.read_journal("j", "train")
    seen: list[int] = []

    async def read() -> None:
        while len(seen) < 60:
            seen.extend(entry.message.prompt.ordinal for entry in await reader.fetch(7, 1.0))

    async with asyncio.timeout(60.0):
        reading = asyncio.ensure_future(read())
        for ordinal in range(60):
            await bus.publish("scored", "j", "train", make_scored(ordinal, job="j"), make_id("j", ordinal))
            if ordinal == 30:
                own_nats_server.kill()
                own_nats_server.start()
        await reading
    assert seen == list(range(60))


async def test_a_reader_whose_consumer_was_deleted_makes_another(bus: NatsBus, client: nats.NATS) -> None:
    await bus.publish("scored", "j", "train", make_scored(0, job="j"), make_id("j", 0))
    reader = await bus.read_journal("j", "train")
    assert len(await reader.fetch(1, 1.0)) == 1
    (info,) = await client.jetstream().consumers_info("scored")
    await client.jetstream().delete_consumer("scored", info.name)
    await bus.publish("scored", "j", "train", make_scored(1, job="j"), make_id("j", 1))
    seen: list[int] = []
    async with asyncio.timeout(LIMIT_S):
        while not seen:
            seen += [entry.message.prompt.ordinal for entry in await reader.fetch(1, 0.2)]
    assert seen == [1]


async def test_a_journal_purged_by_a_foreign_hand_is_found_out(bus: NatsBus, client: nats.NATS) -> None:
    for ordinal in range(3):
        await bus.publish("scored", "j", "train", make_scored(ordinal, job="j"), make_id("j", ordinal))
    await client.jetstream().purge_stream("scored", seq=3)
    with pytest.raises(Corrupt, match="the log starts at sequence 3, expected 2"):
        await bus.read_journal("j", "train", start=2)


async def test_a_stream_that_was_recreated_is_found_out(bus: NatsBus, client: nats.NATS) -> None:
    sequence = await bus.announce(JobChanged(job="j", state="queued"))
    created = (await bus.stream_state("events")).created
    config = (await client.jetstream().stream_info("events")).config
    await client.jetstream().delete_stream("events")
    await client.jetstream().add_stream(config)
    assert (await bus.stream_state("events")).created != created
    with pytest.raises(Corrupt, match="stream events ends at sequence 0, expected at least 1"):
        await anext(bus.events("j", after=sequence))


async def test_events_go_on_over_a_kill(bus: NatsBus, own_nats_server: NatsServer) -> None:
    await bus.announce(JobChanged(job="j", state="queued"))
    async with asyncio.timeout(LIMIT_S), contextlib.aclosing(bus.events("j")) as events:
        assert (await anext(events))[0] == JobChanged(job="j", state="queued")
        own_nats_server.kill()
        own_nats_server.start()
        await bus.announce(JobChanged(job="j", state="running"))
        assert (await anext(events))[0] == JobChanged(job="j", state="running")


async def test_heartbeats_go_on_over_a_kill(bus: NatsBus, own_nats_server: NatsServer) -> None:
    from shared.messages import Heartbeat

    heard: list[str] = []

    async def listen() -> None:
        async for beat in bus.heartbeats():
            heard.append(beat.state)

    async def is_heard(state: str) -> bool:
        await bus.beat(Heartbeat(service="data", replica="data-0", pid=1, state=state))
        return state in heard

    listener = asyncio.ensure_future(listen())
    await eventually(lambda: is_heard("before"))
    own_nats_server.kill()
    await bus.beat(Heartbeat(service="data", replica="data-0", pid=1, state="away"))
    own_nats_server.start()
    await eventually(lambda: is_heard("after"))
    listener.cancel()
    await asyncio.wait({listener})


async def test_an_announcement_whose_answer_was_lost_is_not_taken_for_a_foreign_write(
    bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams, lost = bus._link.streams, []
    publish = streams.publish

    async def lose_the_first_answer(*args: object, **options: object) -> object:
        answer = await publish(*args, **options)
        if not lost:
            lost.append(answer)
            raise nats.errors.TimeoutError
        return answer

    monkeypatch.setattr(streams, "publish", lose_the_first_answer)
    sequence = await bus.announce(JobChanged(job="j", state="queued"), expected_last=0)
    assert (await bus.last_event("j", "job")) == (JobChanged(job="j", state="queued"), sequence)
    lost.clear()
    revision = await bus.put("job.j", b"one", revision=0)
    record = await bus.get("job.j")
    assert record is not None and record.revision == revision


async def test_a_large_body_rides_as_a_claim_check(bus: NatsBus, client: nats.NATS) -> None:
    large = make_completed(0, job="j", tokens=MAX_BODY_BYTES // 8)
    await bus.publish("completions", "j", "train", large, make_id("j", 0))
    raw = await client.jetstream().get_last_msg("completions", "completions.j.train")
    assert not raw.data
    (delivery,) = await (await bus.work("completions", "j", "train")).fetch(1, LIMIT_S)
    assert delivery.message == large


def bodies(tmp_path: Path) -> int:
    return BlobStore((tmp_path / "blobs").as_uri()).usage().blobs


async def test_a_large_body_goes_with_the_ack_of_its_work(bus: NatsBus, tmp_path: Path) -> None:
    for ordinal in (0, 1):
        large = make_completed(ordinal, job="j", tokens=MAX_BODY_BYTES // 8)
        await bus.publish("completions", "j", "train", large, make_id("j", ordinal))
    first, second = await (await bus.work("completions", "j", "train")).fetch(2, LIMIT_S)
    assert bodies(tmp_path) == 2
    await first.ack()
    assert bodies(tmp_path) == 1
    await second.hand_back()
    assert bodies(tmp_path) == 1
    assert await bus.stored("completions", "j", "train") == 1


async def test_a_large_body_stays_where_its_ack_is_not_confirmed(
    bus: NatsBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bus.publish(
        "completions", "j", "train", make_completed(0, job="j", tokens=MAX_BODY_BYTES // 8), make_id("j", 0)
    )
    (delivery,) = await (await bus.work("completions", "j", "train")).fetch(1, LIMIT_S)

    async def lost(*_: object, **__: object) -> None:
        raise nats.errors.TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(bus._link.client, "request", lost)
        await delivery.ack()
    assert bodies(tmp_path) == 1


async def test_a_message_whose_body_went_because_another_has_finished_it_is_nobodys(
    bus: NatsBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second delivery was under way when the first one was acknowledged: no void, no dead letter."""
    await bus.publish(
        "completions", "j", "train", make_completed(0, job="j", tokens=MAX_BODY_BYTES // 8), make_id("j", 0)
    )
    queue = await bus.work("completions", "j", "train")
    (first,) = await queue.fetch(1, LIMIT_S)
    await first.hand_back()
    unseal = work.unseal

    async def unseal_late(raw: Any, *more: Any) -> object:
        await bus._link.client.request(raw.reply, b"+ACK")
        for path in (tmp_path / "blobs").glob("??/*"):
            path.unlink()
        return await unseal(raw, *more)

    monkeypatch.setattr(work, "unseal", unseal_late)
    assert list(await queue.fetch(1, 2.0)) == []
    assert await bus.stored("scored", "j", "train") == 0
    assert await bus.dead_letters("j", 10) == []


async def test_large_bodies_of_the_journal_go_with_its_purge(bus: NatsBus, tmp_path: Path) -> None:
    for ordinal in range(4):
        large = make_scored(ordinal, job="j", tokens=MAX_BODY_BYTES // 8)
        await bus.publish("scored", "j", "train", large, make_id("j", ordinal))
    await bus.publish("scored", "j", "train", make_scored(4, job="j"), make_id("j", 4))
    await bus.publish("scored", "k", "train", make_scored(0, job="k", tokens=MAX_BODY_BYTES // 8), make_id("k", 0))
    reader = await bus.read_journal("j", "train")
    entries = await reader.fetch(5, LIMIT_S)
    assert bodies(tmp_path) == 5
    await bus.purge("scored", "j", "train", below=entries[2].sequence)
    assert bodies(tmp_path) == 3
    (again,) = await (await bus.read_journal("j", "train", start=entries[2].sequence)).fetch(1, LIMIT_S)
    assert again == entries[2], "what is left can be read"
    await bus.purge("scored", "j", "train")
    assert bodies(tmp_path) == 1, "the other job's"


async def test_a_large_body_that_is_gone_makes_its_group_void(bus: NatsBus, tmp_path: Path) -> None:
    large = make_completed(3, job="j", tokens=MAX_BODY_BYTES // 8)
    await bus.publish("completions", "j", "train", large, make_id("j", 3))
    for blob in (path for path in (tmp_path / "blobs").glob("*/*") if path.is_file()):
        blob.unlink()
    assert list(await (await bus.work("completions", "j", "train")).fetch(1, 0.2)) == []
    (entry,) = await (await bus.read_journal("j", "train")).fetch(1, LIMIT_S)
    assert isinstance(entry.message, Voided)
    assert (entry.message.ordinal, entry.message.reason) == (3, "bad-sample")


async def test_a_claim_check_that_is_none_goes_to_the_dead_letters(bus: NatsBus, client: nats.NATS) -> None:
    await client.jetstream().publish("prompts.j.train", b"", headers={"Triune-Body": "nonsense"})
    assert list(await (await bus.work("prompts", "j", "train")).fetch(1, 0.2)) == []
    (letter,) = await bus.dead_letters("j", 10)
    assert "'nonsense' is no digest" in letter.reason


async def test_a_journal_record_whose_body_is_gone_reads_as_a_void(bus: NatsBus, tmp_path: Path) -> None:
    large = make_scored(3, job="j", tokens=MAX_BODY_BYTES // 8)
    await bus.publish("scored", "j", "train", large, make_id("j", 3))
    for blob in (path for path in (tmp_path / "blobs").glob("*/*") if path.is_file()):
        blob.unlink()
    for _ in range(2):  # in a replay too
        (entry,) = await (await bus.read_journal("j", "train")).fetch(1, LIMIT_S)
        assert isinstance(entry.message, Voided) and entry.message.ordinal == 3


@pytest.mark.parametrize("body", [b"", b"not msgpack at all", b"\x81\xa4type\xa9nobody.v1"], ids=str)
async def test_a_message_that_nobody_can_read_goes_to_the_dead_letters(
    bus: NatsBus, client: nats.NATS, body: bytes
) -> None:
    await client.jetstream().publish("prompts.j.train", body)
    await prompts(bus, range(1))
    queue = await bus.work("prompts", "j", "train")
    async with asyncio.timeout(LIMIT_S):
        assert [d.message.ordinal for d in await queue.fetch(4, LIMIT_S)] == [0]
    raw = await client.jetstream().get_last_msg("dead", "dead.j.train")
    from shared.messages import decode

    letter = decode(raw.data)
    assert isinstance(letter, DeadLetter)
    assert (letter.subject, letter.deliveries) == ("prompts.j.train", 1)


async def test_a_dead_letter_that_nobody_can_read_hides_no_other(bus: NatsBus, client: nats.NATS) -> None:
    for ordinal in range(2):
        letter = DeadLetter(
            job="j", subject="prompts.j.train", ordinal=ordinal, deliveries=6, reason="it died", service="rollout"
        )
        await bus.publish("dead", "j", "train", letter, f"letter/{ordinal}")
        await client.jetstream().publish("dead.j.train", b"not msgpack at all")
    assert [letter.ordinal for letter in await bus.dead_letters("j", 10)] == [0, 1]


async def test_a_message_of_a_foreign_kind_is_void_under_its_id(bus: NatsBus) -> None:
    await bus.publish("prompts", "j", "train", make_scored(5, job="j"), make_id("j", 5))
    assert list(await (await bus.work("prompts", "j", "train")).fetch(1, 0.2)) == []
    (entry,) = await (await bus.read_journal("j", "train")).fetch(1, LIMIT_S)
    assert isinstance(entry.message, Voided)
    assert entry.message.ordinal == 5 and "which prompts does not carry" in entry.message.detail


async def test_a_journal_entry_that_nobody_can_read_is_passed_over(bus: NatsBus, client: nats.NATS) -> None:
    await client.jetstream().publish("scored.j.train", b"garbage")
    await bus.publish("scored", "j", "train", make_scored(0, job="j"), make_id("j", 0))
    (entry,) = await (await bus.read_journal("j", "train")).fetch(4, LIMIT_S)
    assert entry.sequence == 2


async def test_a_server_that_is_away_for_longer_than_any_call_used_to_take_is_waited_for(
    own_nats_server: NatsServer,
) -> None:
    retry = Retry()
    bus = await NatsBus.connect(own_nats_server.url, retry=retry)
    await bus.put("kept", b"1")
    own_nats_server.kill()
    calls = [bus.get("kept"), bus.put("new", b"2"), bus.stream_state("scored"), prompts(bus, range(1))]
    waiting = asyncio.gather(*calls)
    done, _ = await asyncio.wait({waiting}, timeout=11.0)
    assert not done
    assert retry.waiting_for == f"NATS at nats://127.0.0.1:{own_nats_server.port}", "and no password"
    own_nats_server.start()
    async with asyncio.timeout(LIMIT_S):
        found, *_ = await waiting
    assert found.value == b"1"
    assert retry.waiting_for == ""
    await bus.close()


async def test_a_server_that_answers_late_is_given_more_time_at_each_try(
    bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bus.put("kept", b"1")
    monkeypatch.setattr(link, "ANSWER_S", 0.1)
    ask, times = bus._link.streams.get_last_msg, []

    async def late(*arguments: object, **options: object) -> object:
        times.append(1)
        await asyncio.sleep(0.5)
        return await ask(*arguments, **options)

    monkeypatch.setattr(bus._link.streams, "get_last_msg", late)
    async with asyncio.timeout(LIMIT_S):
        found = await bus.get("kept")
    assert found is not None and found.value == b"1"
    assert len(times) > 3, "0.1, 0.2 and 0.4 s were too short"


async def test_who_cannot_wait_for_a_server_that_is_away_gets_unavailable(own_nats_server: NatsServer) -> None:
    bus = await NatsBus.connect(own_nats_server.url)
    own_nats_server.kill()
    with pytest.raises(Unavailable, match=r"read .*x: nats://.* does not take it"), within(0.3):
        await bus.get("x")
    await bus.close()


async def test_a_server_that_takes_requests_and_answers_none_is_waited_for_no_longer_than_the_caller_can(
    bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silence(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(bus._link.streams, "get_last_msg", silence)
    monkeypatch.setattr(link, "ANSWER_S", 10 * LIMIT_S)
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(Unavailable, match="does not take it"), within(0.1):
            await bus.get("x")
    monkeypatch.undo()


async def test_bodies_in_a_blob_store_that_is_away_are_waited_for_and_count_nothing(
    own_nats_server: NatsServer,
) -> None:
    blobs = AwayBlobs()
    bus = await NatsBus.connect(own_nats_server.url, blobs=blobs, retry=Retry(longest_pause_s=0.1), ack_wait_s=0.4)
    queue = await bus.work("completions", "j", "train")
    for ordinal in range(2):
        large = make_completed(ordinal, job="j", tokens=200_000)
        await bus.publish("completions", "j", "train", large, make_id("j", ordinal))
    blobs.tries = 30
    async with asyncio.timeout(4 * LIMIT_S):
        deliveries = await queue.fetch(2, LIMIT_S)
    assert [(one.message.prompt.ordinal, one.attempts) for one in deliveries] == [(0, 1), (1, 1)]
    assert blobs.tries == 0
    await bus.close()


async def test_a_message_that_comes_again_while_we_are_at_work_on_it_is_no_second_one(
    bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await bus.work("prompts", "j", "train")
    await prompts(bus, range(1))
    (held,) = await queue.fetch(1, LIMIT_S)

    async def lost(*_: object) -> None:
        return

    with monkeypatch.context() as patch:
        patch.setattr(work, "answer", lost)  # the server is away, and our signs of life are lost
        for _ in range(3):
            await held.keep()
            assert await queue.fetch(1, 0.25) == []
    assert (held.attempts, held.deliveries) == (1, 2)
    await held.ack()
    await eventually(lambda: is_empty(bus, "prompts"))


async def test_a_server_that_comes_back_without_its_data_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "nats"
    with contextlib.closing(NatsServer(folder)) as server:
        server.start()
        bus = await NatsBus.connect(server.url)
        reader = await bus.read_journal("j", "train")
        queue = await bus.work("prompts", "j", "train")
        server.kill()
        shutil.rmtree(folder / "jetstream")
        server.start()
        asks = (partial(bus.get, "job.j"), partial(bus.stream_state, "scored"), partial(bus.last_event, "j", "weights"))
        for ask in asks:
            async with asyncio.timeout(LIMIT_S):
                with pytest.raises(Corrupt, match="has lost its data"):
                    await ask()
        with pytest.raises(Corrupt, match="has lost its data"):
            async with asyncio.timeout(2 * LIMIT_S):
                while True:
                    await reader.fetch(1, 1.0)
        assert await queue.fetch(1, 0.1) == []
        await bus.close()


async def test_closing_a_connection_that_breaks_at_that_moment_is_quiet(
    own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = await NatsBus.connect(own_nats_server.url)
    client = bus._link.client
    transport = client._transport
    client._flusher_task.cancel()
    await asyncio.wait({client._flusher_task})

    async def lost() -> None:
        raise ConnectionResetError("Connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(transport, "drain", lost)
        client._pending, client._pending_data_size = [b"PING\r\n"], 6
        await bus.close()
    assert client.is_closed


async def test_a_connection_that_breaks_under_a_call_is_temporary(
    bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, faults = bus._link.client.publish, [ConnectionResetError("Connection lost")]

    async def break_once(*args: object, **options: object) -> None:
        if faults:
            raise faults.pop()
        await publish(*args, **options)

    queue = await bus.work("prompts", "j", "train")
    await prompts(bus, range(1))
    monkeypatch.setattr(bus._link.client, "publish", break_once)
    (delivery,) = await queue.fetch(1, LIMIT_S)
    assert not faults
    faults.append(ConnectionResetError("Connection lost"))
    await delivery.keep()
    assert not faults
    streams, trouble = bus._link.streams, [BrokenPipeError("Broken pipe")]
    store = streams.publish

    async def store_after_trouble(*args: object, **options: object) -> object:
        if trouble:
            raise trouble.pop()
        return await store(*args, **options)

    monkeypatch.setattr(streams, "publish", store_after_trouble)
    await prompts(bus, range(1, 2))
    assert not trouble


@pytest.mark.parametrize(
    ("said", "awaited"),
    [
        ("maximum bytes exceeded", "room in a full stream (publish prompts.j.train)"),
        ("write msgs/1.blk: no space left on device", "room on the disk of NATS"),
    ],
)
async def test_what_a_publish_waits_for_is_told_when_the_server_has_no_room(
    own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, said: str, awaited: str
) -> None:
    retry = Retry(longest_pause_s=0.1)
    bus = await NatsBus.connect(own_nats_server.url, retry=retry)

    async def refuse(*_: object, **__: object) -> None:
        raise ServiceUnavailableError(code=503, err_code=10077, description=said)

    with monkeypatch.context() as patch:
        patch.setattr(bus._link.streams, "publish", refuse)
        publishing = asyncio.create_task(prompts(bus, range(1)))

        async def is_told() -> bool:
            return retry.waiting_for == awaited

        await eventually(is_told)
    await publishing
    assert retry.waiting_for == ""
    await bus.close()


async def test_limits_of_existing_streams_are_changed_by_the_next_connection(own_nats_server: NatsServer) -> None:
    for limit in (1_000_000, 2_000_000, 2_000_000):
        bus = await NatsBus.connect(own_nats_server.url, stream_bytes={"scored": limit})
        assert (await bus.stream_state("scored")).max_bytes == limit
        await bus.close()


async def test_a_disk_without_room_for_the_streams_is_one_sentence(own_nats_server: NatsServer) -> None:
    with pytest.raises(Unavailable, match="has no room for stream scored of 1125899906842624 bytes"):
        await NatsBus.connect(own_nats_server.url, stream_bytes={"scored": 1 << 50})


async def test_the_trace_of_the_publisher_comes_with_the_message(bus: NatsBus) -> None:
    context = SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(context)):
        await prompts(bus, range(1))
    await prompts(bus, range(1, 2))
    traced, untraced = await (await bus.work("prompts", "j", "train")).fetch(2, LIMIT_S)
    found = trace.get_current_span(propagate.extract(dict(traced.trace))).get_span_context()
    assert (found.trace_id, found.span_id) == (0xABC, 0xDEF)
    assert untraced.trace == {}


async def test_a_closed_bus_says_so_at_once(own_nats_server: NatsServer) -> None:
    bus = await NatsBus.connect(own_nats_server.url)
    queue = await bus.work("prompts", "j", "train")
    await bus.close()
    with pytest.raises(Unavailable):
        await bus.get("x")
    with pytest.raises(Unavailable):
        await queue.fetch(1, 60.0)


async def test_no_reader_asks_the_server_for_several_subjects(bus: NatsBus, client: nats.NATS) -> None:
    """Else nats-server 2.12.8 skips what it has not delivered of the others when one of them is purged."""
    reader = await bus.read_events("j", "weights", "job")
    follower = bus.events("j", "weights", "eval-due")
    hearing = asyncio.create_task(anext(follower))
    await eventually(lambda: consumers(client, "events", 2))
    found = await client.jsm().consumers_info("events")
    assert [(one.config.filter_subject, one.config.filter_subjects) for one in found] == [("events.j.*", None)] * 2
    hearing.cancel()
    await asyncio.wait({hearing})
    await reader.close()


async def consumers(client: nats.NATS, stream: str, count: int) -> bool:
    return len(await client.jsm().consumers_info(stream)) == count
