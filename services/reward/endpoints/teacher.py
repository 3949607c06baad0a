"""A teacher's log-probs of what the policy has sampled, from an OpenAI-compatible server: on-policy distillation.

The teacher reads the same tokens: it has the policy's tokenizer. A prompt without images goes to `/completions` as
token ids (`echo`, as OpenAI's and vLLM's servers do it); one with images to `/chat/completions` with vLLM's
`prompt_logprobs`, since no server takes image features beside ids there. Its answer names the ids that it has read:
where a text is read as other tokens than were sampled, the completion has no log-probs, and no value stands for them.
"""

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import msgspec

from services.reward.endpoints.server import Server, TooLarge, data_url
from shared.blobs.port import Blobs
from shared.errors import BadSample, Unavailable, one_error
from shared.jobs.spec import Distillation
from shared.messages import IMAGE_MARK, ChatTurn, Completed, Completion, pack_floats, unpack_ints

TEACHER = "the teacher"
REQUESTS_AT_ONCE = 32
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A token's entry has about 100 bytes, of a prompt's images too."""
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class Teacher:
    """One job's teacher; a context manager over its connections."""

    def __init__(self, url: str, token: str | None, settings: Distillation, blobs: Blobs) -> None:
        """`url` with its version, such as `http://host:8000/v1`."""
        self._server = Server(TEACHER, url, token)
        self._settings, self._blobs = settings, blobs
        self._free = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def __aenter__(self) -> "Teacher":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.aclose()

    async def log_probs(self, group: Completed) -> list[bytes]:
        """float32 (T,) of log π_teacher for each completion, at temperature 1; empty where it has read other tokens.

        Raises Unavailable when it does not answer (an image that is away, too), BadSample when it refuses the group or
        answers something else.
        """
        if group.prompt.images:
            turns = await self._messages(group)
            asked = [self._of_text(group, completion, turns) for completion in group.completions]
        else:
            asked = [self._of_ids(group, completion) for completion in group.completions]
        with one_error():
            async with asyncio.TaskGroup() as tasks:
                found = [tasks.create_task(one) for one in asked]
        return [task.result() for task in found]

    async def _of_ids(self, group: Completed, completion: Completion) -> bytes:
        prompt, sampled = unpack_ints(group.prompt_ids).tolist(), unpack_ints(completion.token_ids).tolist()
        if not sampled:
            return b""
        body = {"prompt": prompt + sampled, "echo": True, "logprobs": 1, "max_tokens": 1}
        answer = await self._post("/completions", body)
        values = _at(answer, "choices", 0, "logprobs", "token_logprobs")[len(prompt) : len(prompt) + len(sampled)]
        return _packed(values, len(sampled))

    async def _of_text(self, group: Completed, completion: Completion, turns: list[dict[str, Any]]) -> bytes:
        start, sampled = len(group.prompt_ids) // 4, unpack_ints(completion.token_ids).tolist()
        if not sampled:
            return b""
        body = {
            "messages": [*turns, {"role": "assistant", "content": completion.text}],
            "prompt_logprobs": 0,
            "max_tokens": 1,
            "add_generation_prompt": False,
            "continue_final_message": completion.finish == "length",  # else the turn's end was sampled, too
        }
        answer = await self._post("/chat/completions", body)
        entries = _at(answer, "prompt_logprobs")[start : start + len(sampled)]
        read = [next(iter(entry.items())) for entry in entries]
        if [int(token) for token, _ in read] != sampled:
            return b""
        return _packed([value["logprob"] for _, value in read], len(sampled))

    async def _messages(self, group: Completed) -> list[dict[str, Any]]:
        """The prompt's turns with its images as data URLs."""
        refs = [image.blob for image in group.prompt.images]
        images = iter([data_url(await asyncio.to_thread(self._blobs.get, ref)) for ref in refs])
        return [{"role": turn.role, "content": _parts(turn, images)} for turn in group.prompt.turns]

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        body, limit_s = body | {"model": self._settings.model}, self._settings.deadline_s
        try:
            async with self._free:
                status, text = await self._server.post(path, body, limit_s=limit_s, most=_MAX_ANSWER_BYTES)
        except TooLarge as error:
            raise BadSample(str(error)) from None
        if status in _TRANSIENT:
            raise Unavailable(self._server.told(status, text))
        if status != 200:
            raise BadSample(f"the group is refused: {self._server.told(status, text)}")
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadSample(f"the teacher answers no JSON: {text[:200]!r}") from error


def _at(answer: Any, *path: str | int) -> Any:
    """What lies at `path` of a JSON document; raises BadSample when there is no list there."""
    found = answer
    try:
        for key in path:
            found = found[key]
    except (KeyError, IndexError, TypeError):
        found = None
    if not isinstance(found, list):
        raise BadSample(
            f"the teacher's answer has no list {'.'.join(map(str, path))}; expected a server that gives the log-probs "
            "of a prompt (`echo` with `logprobs`, `prompt_logprobs`)"
        )
    return found


def _packed(values: list[Any], count: int) -> bytes:
    """float32 bytes of `count` log-probs; raises BadSample."""
    wrong = [value for value in values if not isinstance(value, int | float) or not -math.inf < value <= 1e-3]
    if len(values) != count or wrong:
        raise BadSample(f"the teacher gives {len(values)} log-probs for {count} tokens, {wrong[:3]} among them")
    return pack_floats(values)


def _parts(turn: ChatTurn, images: Iterator[str]) -> str | list[dict[str, Any]]:
    """The content of a turn as the chat API takes it."""
    first, *others = turn.content.split(IMAGE_MARK) if turn.role == "user" else [turn.content]
    if not others:
        return first
    parts: list[dict[str, Any]] = [{"type": "text", "text": first}] if first else []
    for text in others:
        parts.append({"type": "image_url", "image_url": {"url": next(images)}})
        parts += [{"type": "text", "text": text}] if text else []
    return parts
