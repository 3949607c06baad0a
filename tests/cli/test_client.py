"""The command line's client of the API."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from shared.runtime.settings import Settings, read_settings
from triune.cli.client import Api


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # the connection stays open unless the client ends it

    def do_GET(self) -> None:
        body = json.dumps({"jobs": []}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_no_connection_stays_open_between_calls() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            api = Api(Settings(api_url=f"http://127.0.0.1:{server.server_port}"))
            assert api.get("/v1/jobs") == {"jobs": []}
            ours = [
                one for one in psutil.Process().net_connections() if one.raddr and one.raddr.port == server.server_port
            ]
            assert not [one for one in ours if one.status == psutil.CONN_ESTABLISHED]
        finally:
            server.shutdown()
            thread.join()


def test_without_an_address_the_api_is_sought_at_the_port_that_up_serves_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIUNE_API_URL", raising=False)
    monkeypatch.setenv("TRIUNE_API_PORT", "8123")
    assert read_settings().api_url == "http://127.0.0.1:8123"
    monkeypatch.setenv("TRIUNE_API_URL", "http://elsewhere:80")
    assert read_settings().api_url == "http://elsewhere:80"
