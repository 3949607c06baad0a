import asyncio
import json
import socket
from pathlib import Path

from services.monitor.live import NOTICES_KEPT, Live
from tests.monitor.theatre import theatre_in


async def test_a_slow_listener_loses_the_oldest_notices_and_is_told_how_many() -> None:
    live = Live()
    with live.listening("job") as slow, live.listening("other"):
        for step in range(10_000):
            live.tell("job", "step", {"step": step})
        notices = await slow.next(0.0)
    assert (notices[0].event, json.loads(notices[0].data)) == ("lost", {"lost": 10_000 - NOTICES_KEPT})
    assert len(notices) == NOTICES_KEPT + 1
    assert json.loads(notices[-1].data) == {"step": 9_999}
    assert await slow.next(0.0) == []


def test_ten_thousand_events_to_a_reader_who_does_not_read_stay_bounded(tmp_path: Path) -> None:
    with theatre_in(tmp_path) as theatre, socket.socket() as reader:
        stage = theatre.stage
        job = theatre.run(stage.submit())
        theatre.run(stage.state(job, "running"))
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", theatre.port))
        reader.sendall(f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: 127.0.0.1:{theatre.port}\r\n\r\n".encode())
        assert reader.recv(1) == b"H"  # the stream has begun
        live = stage.monitor.desk.live

        async def flood() -> int:
            most = 0
            for step in range(10_000):
                live.tell(job, "step", {"step": step, "filler": "x" * 1000})
                await asyncio.sleep(0)
                most = max(most, sum(listener.num_waiting for listener in live.listeners(job)))
            return most

        assert 1 <= theatre.run(flood()) <= NOTICES_KEPT
        reader.settimeout(10.0)
        text = b""
        while b"event: lost" not in text:
            piece = reader.recv(65536)
            assert piece, "the stream ended"
            text = (text + piece)[-200_000:]
