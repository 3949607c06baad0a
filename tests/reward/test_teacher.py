"""A teacher's log-probs over HTTP, from a server that computes them."""

import asyncio
import contextlib
import io
import itertools
import json

import msgspec
import pytest
from PIL import Image

from services.reward.app import teacher_of
from services.reward.endpoints.teacher import Teacher
from services.reward.handlers import Deps, on_completed
from services.reward.metrics import instruments
from shared.bus.memory.bus import MemoryBus
from shared.bus.memory.server import MemoryServer
from shared.errors import BadJob, BadSample, Unavailable
from shared.jobs.document import parse_job
from shared.jobs.spec import Distillation
from shared.messages import Completion, Reward, Scored, Voided, pack_floats, pack_ints, unpack_floats
from shared.runtime.retry import Retry
from tests.reward.groups import group
from tests.reward.teacher_server import teaching

SETTINGS = Distillation(model="large", deadline_s=5.0)


def completion(ids: list[int], text: str, finish: str = "stop") -> Completion:
    return Completion(pack_ints(ids), pack_floats([-1.0] * len(ids)), text, finish, [(0, len(ids))])


def asked(*completions: Completion, images: bool):
    """A group of these completions, of a prompt of tokens 1, 2 with or without its image."""
    sent = group(["x"] * len(completions))
    prompt = sent.prompt if images else msgspec.structs.replace(sent.prompt, images=[])
    return msgspec.structs.replace(sent, prompt=prompt, completions=list(completions))


class Blobs:
    """One image, whatever is asked for."""

    def get(self, ref):
        buffer = io.BytesIO()
        Image.new("RGB", (2, 2)).save(buffer, "PNG")
        return buffer.getvalue()


def expected(server, *ids: int) -> list[float]:
    """log p of the tokens after the first one."""
    logs = server.model.logits.log_softmax(-1)
    return [logs[one, other].item() for one, other in itertools.pairwise(ids)]


async def test_a_prompt_of_text_is_judged_by_its_token_ids():
    async with teaching() as server, Teacher(server.url, "secret", SETTINGS, Blobs()) as teacher:
        found = await teacher.log_probs(asked(completion([7, 9, 2], "ab"), completion([], ""), images=False))
        (path, body) = server.asked[0]
        assert path == "/v1/completions" and body["prompt"] == [1, 2, 7, 9, 2] and body["model"] == "large"
        assert unpack_floats(found[0]).tolist() == pytest.approx(expected(server, 2, 7, 9, 2))
        assert found[1] == b"" and len(server.asked) == 1


async def test_a_prompt_with_an_image_is_judged_by_its_text_and_the_ids_are_compared():
    ended, cut = completion([5, 6, 2], "ab"), completion([5, 7], "ac", "length")
    otherwise = completion([8, 2], "ab")  # sampled as one token, read as two
    async with teaching() as server, Teacher(server.url, None, SETTINGS, Blobs()) as teacher:
        found = await teacher.log_probs(asked(ended, cut, otherwise, images=True))
        assert unpack_floats(found[0]).tolist() == pytest.approx(expected(server, 2, 5, 6, 2))
        assert unpack_floats(found[1]).tolist() == pytest.approx(expected(server, 2, 5, 7))
        assert found[2] == b""


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_teacher_that_does_not_answer_is_away(status):
    async with teaching() as server, Teacher(server.url, None, SETTINGS, Blobs()) as teacher:
        server.answers = [(status, "busy")]
        with pytest.raises(Unavailable, match=f"the teacher at .* answers {status}: busy"):
            await teacher.log_probs(asked(completion([7], "a"), images=False))
    async with Teacher(server.url, None, SETTINGS, Blobs()) as teacher:
        with pytest.raises(Unavailable, match="does not answer"):
            await teacher.log_probs(asked(completion([7], "a"), images=False))


async def test_a_server_that_sends_a_byte_at_a_time_is_away_once_the_deadline_is_over():
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        hung_up.set()

    hung_up = asyncio.Event()
    listening = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    hasty = msgspec.structs.replace(SETTINGS, deadline_s=0.3)
    async with listening, Teacher(url, None, hasty, Blobs()) as teacher:
        with pytest.raises(Unavailable, match=r"does not answer within 0.3 s"):
            await teacher.log_probs(asked(completion([7], "a"), images=False))
        async with asyncio.timeout(10.0):
            await hung_up.wait()


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((404, "no model large"), "the group is refused: the teacher at .* answers 404: no model large"),
        ((200, "hello"), "answers no JSON"),
        ((200, json.dumps({"choices": []})), "has no list choices.0.logprobs.token_logprobs"),
        ((200, json.dumps({"choices": [{"logprobs": {"token_logprobs": [None, -1.0]}}]})), "0 log-probs for 1 tokens"),
        ((200, json.dumps({"choices": [{"logprobs": {"token_logprobs": [None, -1, None]}}]})), r"\[None\] among them"),
        ((200, json.dumps({"choices": [{"logprobs": {"token_logprobs": [None, -1, 0.5]}}]})), r"\[0.5\] among them"),
    ],
)
async def test_an_answer_that_is_none_is_never_a_value(answer, sentence):
    async with teaching() as server, Teacher(server.url, None, SETTINGS, Blobs()) as teacher:
        server.answers = [answer]
        with pytest.raises(BadSample, match=sentence):
            await teacher.log_probs(asked(completion([7], "a"), images=False))


class Scorer:
    """Every completion is right."""

    async def score(self, samples):
        return [Reward(status="ok", final=1.0, accuracy=1.0) for _ in samples]


async def records(sent, answers):
    """What the service publishes of `sent` while the teacher answers so first."""
    bus = MemoryBus(MemoryServer())
    queue = await bus.work("completions", "job-1", sent.prompt.kind)
    await bus.publish("completions", "job-1", sent.prompt.kind, sent, "1")
    async with teaching() as server, Teacher(server.url, None, SETTINGS, Blobs()) as teacher:
        server.answers = answers
        retry = Retry(longest_pause_s=0.05)
        deps = Deps(bus, Scorer(), instruments(), "reward-1", retry=retry, teacher=teacher)
        (delivery,) = await queue.fetch(1, 5.0)
        await on_completed(delivery, deps)
        reader = await bus.read_journal("job-1", sent.prompt.kind)
        (entry,) = await reader.fetch(2, 1.0)
        return entry.message, server


async def test_a_record_carries_the_teachers_log_probs_once_it_is_back():
    sent = asked(completion([7, 9], "ab"), completion([4], "c"), images=False)
    record, server = await records(sent, [(503, "loading")] * 2)
    assert isinstance(record, Scored)
    assert [unpack_floats(one).tolist() for one in record.teacher] == [
        pytest.approx(expected(server, 2, 7, 9)),
        pytest.approx(expected(server, 2, 4)),
    ]


async def test_a_group_that_the_teacher_refuses_is_void_with_its_sentence():
    record, _ = await records(asked(completion([7], "a"), images=False), [(400, "too long")])
    assert isinstance(record, Voided) and record.reason == "bad-sample" and "400: too long" in record.detail


async def test_held_out_groups_have_no_teacher():
    sent = asked(completion([7], "a"), images=False)
    sent = msgspec.structs.replace(sent, prompt=msgspec.structs.replace(sent.prompt, kind="eval", version=3))
    record, server = await records(sent, [])
    assert record.teacher == [] and server.asked == []


class FakePorts:
    class settings:
        teacher_url = None


def test_a_job_with_a_teacher_that_nobody_has_named_is_refused():
    spec = parse_job({"model": "m", "total_steps": 1, "data": {"train": ["x"]}, "distillation": {"model": "large"}})
    with pytest.raises(BadJob, match="expected TRIUNE_TEACHER_URL in its environment"):
        teacher_of(spec, FakePorts())


def test_a_teacher_needs_samples_at_its_own_temperature():
    job = {"model": "m", "total_steps": 1, "data": {"train": ["x"]}, "distillation": {"model": "large"}}
    with pytest.raises(BadJob, match=r"sampling.temperature is 0.7 with distillation.model"):
        parse_job(job | {"sampling": {"temperature": 0.7}})
