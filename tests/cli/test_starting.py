"""A command that is given while `triune up` starts."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from shared.runtime.settings import local_folder
from triune.cli import starting
from triune.local.lock import locked
from triune.local.process import free_port


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    port = free_port()
    monkeypatch.setenv("TRIUNE_RUNS", str(tmp_path))
    monkeypatch.setenv("TRIUNE_API_URL", f"http://127.0.0.1:{port}")
    return port


def test_it_waits_while_the_folder_is_held_and_takes_the_token_that_was_drawn_meanwhile(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starting, "GRACE_S", 0.0)
    with locked(local_folder(tmp_path)), HTTPServer(("127.0.0.1", port), Healthy, bind_and_activate=False) as server:

        def become_ready() -> None:
            token = local_folder(tmp_path) / "api-token"
            token.write_text("drawn")
            token.chmod(0o600)
            server.server_bind()
            server.server_activate()
            server.serve_forever()

        looks = 0

        def is_locked(folder: Path) -> bool:
            nonlocal looks
            looks += 1
            if looks == 2:
                threading.Thread(target=become_ready, daemon=True).start()
            return actually_locked(folder)

        actually_locked = starting.is_locked
        monkeypatch.setattr(starting, "is_locked", is_locked)
        assert starting.settings_once_up().api_token == "drawn"
        server.shutdown()
    assert "waiting for `triune up`, which is starting" in capsys.readouterr().err
    assert looks >= 2


def test_it_does_not_wait_where_nothing_starts(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starting, "GRACE_S", 0.0)
    with locked(local_folder(tmp_path)):
        pass  # it was held, and is free again
    assert starting.settings_once_up().runs == tmp_path
    assert capsys.readouterr().err == ""


def test_an_api_elsewhere_is_not_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIUNE_API_URL", "http://triune.example:8000")
    monkeypatch.setattr(starting, "_answers", lambda _: pytest.fail("it was asked"))
    assert starting.settings_once_up().api_url == "http://triune.example:8000"
