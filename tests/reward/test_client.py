"""`triune_client` against a real server: batches, errors of two kinds, patience, forks."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "clients"))

from triune_client import Client, Unreachable, Unscorable  # noqa: E402
from triune_client.easyr1 import compute_score as easyr1  # noqa: E402
from triune_client.samples import sample_of  # noqa: E402
from triune_client.trl import reward as trl  # noqa: E402
from triune_client.verl import compute_score as verl  # noqa: E402

_TEXT = "<think>\na\n</think>\n<answer>\n{}\n</answer>"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A reward server with a token, as a process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "import sys; from triune.cli.reward import app; sys.argv = ['reward', *sys.argv[1:]]; app()"
    command = [sys.executable, "-c", code, "serve", "--port", str(port), "--workers", "1", "--token", "secret"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(600):
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(address)
                    break
                threading.Event().wait(0.1)
            yield address
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture(autouse=True)
def _environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIUNE_REWARD_URL", url)
    monkeypatch.setenv("TRIUNE_REWARD_TOKEN", "secret")


def test_calls_from_many_threads_have_their_own_rewards(url: str) -> None:
    client = Client(url, token="secret")
    futures = [client.submit(sample_of(_TEXT.format(n % 7), "3", verifier="count")) for n in range(1000)]
    assert [future.result(60).accuracy for future in futures] == [float(n % 7 == 3) for n in range(1000)]


def test_a_wrong_sample_is_unscorable_and_spoils_no_other(url: str) -> None:
    client = Client(url, token="secret")
    good = sample_of(_TEXT.format(3), "3", verifier="count")
    assert client.finals([good, good | {"ground_truth": "many"}, good]) == [1.0, None, 1.0]
    with pytest.raises(Unscorable, match="no whole number"):
        client.score(good | {"ground_truth": "many"})
    assert client.finals([good]) == [1.0]


def test_a_server_that_is_away_is_waited_for_and_then_unreachable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(Unreachable, match="does not answer"):
        Client(f"http://127.0.0.1:{port}", patience_s=0.3).score(sample_of("a", "b"))


def test_a_caller_with_a_limit_gets_unreachable_at_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        client = Client(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        with pytest.raises(Unreachable, match=r"no reward within 0.2 s"):
            client.score(sample_of("a", "b"), limit_s=0.2)


def test_a_busy_server_is_asked_again() -> None:
    answers = [429, 503, 200]

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            status = answers.pop(0)
            result: dict[str, Any] = {"status": "ok", "final": 0.25, "accuracy": 0.25, "format": 0.0, "parts": {}}
            body = json.dumps({"results": [result]}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        client = Client(f"http://127.0.0.1:{server.server_port}", patience_s=30.0)
        assert client.score(sample_of("a", "b")).final == 0.25 and not answers
    finally:
        server.shutdown()
        server.server_close()


def test_the_trainers_functions_agree(url: str) -> None:
    truth = {"verifier": "count", "ground_truth": "3", "format_ratio": 0.5}
    texts = [_TEXT.format(3), _TEXT.format(4), "no tags"]
    expected = [pytest.approx(1.0), pytest.approx(1 / 3), 0.0]
    assert [verl("source", text, truth)["score"] for text in texts] == expected
    assert [
        row["overall"] for row in easyr1([{"response": text, "ground_truth": json.dumps(truth)} for text in texts])
    ] == expected
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    assert asyncio.run(trl(completions, reward_model=[truth] * 3, trainer_state=object())) == expected


def test_an_error_is_none_for_trl_and_an_exception_for_verl(url: str) -> None:
    columns = {"ground_truth": ["3", "many"], "verifier": ["count", "count"]}
    assert asyncio.run(trl([_TEXT.format(3)] * 2, **columns)) == [1.0, None]
    with pytest.raises(Unscorable):
        verl("source", "a", "many", verifier="count")
    assert verl("source", "a", "many", verifier="count", on_error=-1.0)["score"] == -1.0
