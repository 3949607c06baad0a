"""An OpenAI-compatible endpoint over real HTTP that says what a test wants it to say."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Judge:
    """`answer` makes the status and body of each reply from the request's body; `asked` and `keys` are what came."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.say('{"score": 1}')
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append(asked)
                outer.keys.add(self.headers["authorization"])
                status, body = outer.answer(asked)
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def say(self, text: str | None, status: int = 200, **usage: Any) -> None:
        """Reply `text` to everything."""
        used = {"prompt_tokens": 1000, "completion_tokens": 10, **usage}
        body = {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": used}
        self.answer: Callable[[dict[str, Any]], tuple[int, bytes]] = lambda _: (status, json.dumps(body).encode())


@contextmanager
def serving() -> Iterator[Judge]:
    """A judge that answers as long as the block runs."""
    judge = Judge()
    thread = threading.Thread(target=judge.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield judge
    finally:
        judge.server.shutdown()
        judge.server.server_close()
        thread.join()
