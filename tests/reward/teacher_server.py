"""An OpenAI-compatible server with a tiny model behind it, which computes what it answers: one process, one thread."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import torch
from torch import nn

ROWS = 32


class Bigram(nn.Module):
    """log p(next token | token), from a random matrix."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.logits = nn.Parameter(torch.randn(ROWS, ROWS, generator=generator))

    def log_probs(self, ids: list[int]) -> list[float | None]:
        """Of every token given the one before it; None of the first."""
        logs = self.logits.log_softmax(-1)
        return [None, *(logs[one, other].item() for one, other in itertools.pairwise(ids))]


class Server:
    """`answers` go before the model's: (status, body) each; `asked` are the requests."""

    def __init__(self) -> None:
        self.model = Bigram(0)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[tuple[int, str]] = []
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length")
        )
        path, body = head.split()[1], json.loads(await reader.readexactly(length))
        self.asked.append((path, body))
        status, text = self.answers.pop(0) if self.answers else (200, json.dumps(self.answer(path, body)))
        data = text.encode()
        writer.write(f"HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        if path.endswith("/chat/completions"):
            ids = self.tokens_of(body)
            entries = [None if value is None else {str(ids[i]): {"logprob": value}} for i, value in self.of(ids)]
            return {"prompt_logprobs": entries, "choices": []}
        ids = [*body["prompt"], 3]  # with one generated token, as `max_tokens` 1 has it
        return {"choices": [{"logprobs": {"token_logprobs": [value for _, value in self.of(ids)]}}]}

    def of(self, ids: list[int]) -> list[tuple[int, float | None]]:
        return list(enumerate(self.model.log_probs(ids)))

    def tokens_of(self, body: dict[str, Any]) -> list[int]:
        """Two tokens of a prompt with its image, then one a letter of the answer (a = 5), then 2 where a turn ends."""
        parts = body["messages"][-2]["content"]
        assert parts[0]["image_url"]["url"].startswith("data:image/png;base64,")
        letters = [ord(letter) - ord("a") + 5 for letter in body["messages"][-1]["content"]]
        return [1, 2, *letters, *([] if body["continue_final_message"] else [2, 4])]


@contextlib.asynccontextmanager
async def teaching() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    server.url = f"http://127.0.0.1:{port}/v1"
    async with listening:
        yield server
