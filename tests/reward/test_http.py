"""The HTTP interface: V-Triune's contract against its golden cases, batches, limits, health."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from starlette.types import ASGIApp

from services.reward.config import RewardConfig
from services.reward.http.app import create_app
from services.reward.metrics import instruments
from services.reward.scoring import Scorer
from services.reward.workers.pool import Pool
from shared.runtime.http import serve_http
from shared.samples.verifiers import VERIFIERS
from tests.reward.cases import GOLDEN, Case, cases
from tests.reward.samples import text

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOUR = {"completion": "\\boxed{4}", "verifier": "mathverify", "ground_truth": "\\boxed{4}"}


def _app(pool: Pool, **settings: Any) -> ASGIApp:
    return create_app(Scorer(pool, instruments()), RewardConfig(**settings))


def _client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://reward")


@contextlib.asynccontextmanager
async def _served(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = asyncio.ensure_future(serve_http(app, "127.0.0.1", port, short_answers=True))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30.0) as client:
        for _ in range(500):
            with contextlib.suppress(httpx.ConnectError):
                await client.get("/healthz")
                break
            await asyncio.sleep(0.01)
        yield client
    server.cancel()
    await asyncio.wait({server})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(pool: Pool) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(_app(pool)) as made:
        yield made


async def test_the_golden_requests_get_the_original_s_answers_from_a_real_server(pool: Pool) -> None:
    golden = json.loads((GOLDEN / "reward_http_cases.json").read_text())
    assert len(golden) == 12
    async with _served(_app(pool, iou_threshold="average")) as real:
        for case in golden:
            content = None if case["body"] is None else json.dumps(case["body"])
            headers = {"content-type": "application/json"}
            response = await real.request(case["method"], case["path"], content=content, headers=headers)
            assert response.status_code == case["status"], case["name"]
            _assert_same(response.json(), case["response"])


def _assert_same(answer: Any, expected: Any) -> None:
    if isinstance(expected, dict) and "rewards" in expected:
        assert answer.keys() == expected.keys()
        assert answer["rewards"] == pytest.approx(expected["rewards"], abs=1e-6)
    else:
        assert answer == expected


async def test_judge_agrees_with_every_golden_case(pool: Pool) -> None:
    clients = {case.threshold: _client(_app(pool, iou_threshold=case.threshold)) for case in cases()}
    for case in cases():
        response = await clients[case.threshold].post("/judge", json=msgspec.to_builtins(case.payload))
        body = response.json()
        assert response.status_code == 200 and ("error" in body) == case.is_error, case.id
        assert body["rewards"] == pytest.approx(case.expected["rewards"], abs=1e-6), case.id


async def test_score_agrees_with_every_golden_case_that_has_parameters(pool: Pool) -> None:
    by_threshold: dict[str | float, list[Case]] = {}
    for case in cases():
        by_threshold.setdefault(case.threshold, []).append(case)
    for threshold, some in by_threshold.items():
        known = [case for case in some if _has_parameters(case)]
        async with _client(_app(pool, iou_threshold=threshold)) as client:
            response = await client.post("/v1/score", json={"samples": [_sample(case) for case in known]})
        for case, result in zip(known, response.json()["results"], strict=True):
            assert (result["status"] == "verifier-error") == case.is_error, (case.id, result)
            if case.is_error:
                assert result["final"] is None and result["error"]
            else:
                assert result["final"] == pytest.approx(case.expected["score"], abs=1e-6), case.id
                assert result["parts"] == pytest.approx(case.parts, abs=1e-6), case.id


def _has_parameters(case: Case) -> bool:
    """Whether `/judge`'s own rules for `reward_verifier_parm` are kept; `/v1/score` has none of them."""
    text = case.payload.reward_verifier_parm
    with contextlib.suppress(ValueError):
        parm = json.loads(text)
        return isinstance(parm, dict) and {"is_training", "step", "total_steps"} <= parm.keys()
    return False


def _sample(case: Case) -> dict[str, Any]:
    payload = case.payload
    return {
        "completion": payload.response,
        "verifier": payload.reward_verifier,
        "ground_truth": payload.solution,
        "params": json.loads(payload.reward_verifier_parm),
        "accuracy_ratio": payload.accuracy_ratio,
        "format_ratio": payload.format_ratio,
    }


@pytest.mark.parametrize(
    ("content", "kind"), [(b"{bad", "json_invalid"), (b"", "missing"), (b"3", "model_attributes_type")]
)
async def test_judge_refuses_what_is_no_payload_as_pydantic_does(
    client: httpx.AsyncClient, content: bytes, kind: str
) -> None:
    response = await client.post("/judge", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 422 and response.json()["detail"][0]["type"] == kind


async def test_judge_coerces_numeric_strings_as_pydantic_does(client: httpx.AsyncClient) -> None:
    payload = msgspec.to_builtins(cases()[0].payload) | {"response": "\\boxed{4}", "solution": "\\boxed{4}"}
    response = await client.post("/judge", json=payload | {"accuracy_ratio": "3", "format_ratio": "1"})
    assert response.json()["rewards"]["final_reward"] == pytest.approx(0.75)
    response = await client.post("/judge", json=payload | {"accuracy_ratio": "much"})
    assert response.status_code == 422 and response.json()["detail"][0]["type"] == "float_parsing"


async def test_results_are_three_valued_and_in_order(client: httpx.AsyncClient) -> None:
    samples = [
        FOUR | {"id": "right"},
        FOUR | {"completion": "\\boxed{5}", "id": "wrong"},
        FOUR | {"verifier": "nobody", "id": "unknown"},
        FOUR | {"params": "x", "id": "no table"},
        FOUR | {"accuracy_ratio": 0.0, "format_ratio": 0.0, "id": "no weight"},
    ]
    results = (await client.post("/v1/score", json={"samples": samples})).json()["results"]
    assert [result["id"] for result in results] == [sample["id"] for sample in samples]
    assert [result["status"] for result in results] == ["ok", "ok"] + ["verifier-error"] * 3
    assert [result["final"] for result in results] == [pytest.approx(1 / 1.1), 0.0, None, None, None]
    assert all(result["error"] for result in results[2:])


async def test_msgpack_in_gives_msgpack_out(client: httpx.AsyncClient) -> None:
    content = msgspec.msgpack.encode({"samples": [FOUR], "deadline_s": 5.0})
    response = await client.post("/v1/score", content=content, headers={"content-type": "application/msgpack"})
    assert response.headers["content-type"] == "application/msgpack"
    (result,) = msgspec.msgpack.decode(response.content)["results"]
    assert result["status"] == "ok" and result["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"samples": [FOUR | {"verifer": "x"}]}, "unknown field `verifer` - at `$.samples[0]`"),
        ({"samples": [{"completion": "x"}]}, "missing required field `verifier`"),
        ({"samples": [], "deadline_s": 0}, "deadline_s is 0"),
        ({"samples": [FOUR | {"completion": 4}]}, "Expected `str`, got `int` - at `$.samples[0].completion`"),
    ],
)
async def test_a_wrong_batch_is_refused_with_the_place_of_the_mistake(
    client: httpx.AsyncClient, body: dict[str, Any], told: str
) -> None:
    response = await client.post("/v1/score", json=body)
    assert response.status_code == 422 and told in response.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/score", "/judge"])
async def test_bytes_that_are_no_utf8_and_lone_surrogates_are_refused(client: httpx.AsyncClient, path: str) -> None:
    for content in (b'{"samples": [{"completion": "\xff\xfe"}]}', b'{"samples": [{"completion": "\\ud800"}]}'):
        response = await client.post(path, content=content, headers={"content-type": "application/json"})
        assert response.status_code in (400, 422)


async def test_a_sample_that_hangs_names_its_deadline(client: httpx.AsyncClient) -> None:
    samples = [FOUR, {"completion": "hang", "verifier": "misbehave", "ground_truth": ""}]
    response = await client.post("/v1/score", json={"samples": samples, "deadline_s": 0.5})
    good, bad = response.json()["results"]
    assert good["status"] == "ok"
    assert bad["status"] == "verifier-error" and "deadline of 0.5 s" in bad["error"]


async def test_a_large_body_is_refused_whether_it_tells_its_length_or_not(pool: Pool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b" " * 600

    async with _client(_app(pool, body_bytes=2000)) as client:
        for content in (b" " * 2001, chunks()):
            response = await client.post("/v1/score", content=content)
            assert response.status_code == 413 and "2000 bytes" in response.json()["detail"]
        assert (await client.post("/v1/score", json={"samples": [FOUR]})).status_code == 200


async def test_bodies_that_are_too_many_together_are_refused_with_or_without_a_length(pool: Pool) -> None:
    async def endless(hold: asyncio.Event) -> AsyncIterator[bytes]:
        yield b" " * 1500
        await hold.wait()
        yield json.dumps({"samples": [FOUR]}).encode()

    async with _served(_app(pool, bodies_bytes=2000)) as client:
        hold = asyncio.Event()
        first = asyncio.ensure_future(client.post("/v1/score", content=endless(hold)))
        refused: list[int] = []
        for _ in range(500):
            refused = [(await client.post("/v1/score", content=b" " * 1000)).status_code]
            if refused == [429]:
                break
            await asyncio.sleep(0.01)
        assert refused == [429]
        hold.set()
        assert (await first).status_code == 200
        assert (await client.post("/v1/score", json={"samples": [FOUR]})).status_code == 200


async def test_a_request_with_too_many_samples_is_refused(pool: Pool) -> None:
    async with _client(_app(pool, request_samples=3)) as client:
        assert (await client.post("/v1/score", json={"samples": [FOUR] * 4})).status_code == 413
        assert (await client.post("/v1/score", json={"samples": [FOUR] * 3})).status_code == 200


async def test_a_full_queue_answers_429_and_says_when_to_come_back() -> None:
    async with Pool(workers=1, limit=4) as pool, _client(_app(pool)) as client:
        hanging = asyncio.ensure_future(pool.score([text("hang", "misbehave", deadline_s=1.0)] * 2))
        for _ in range(1000):
            if pool.waiting:
                break
            await asyncio.sleep(0.01)
        response = await client.post("/v1/score", json={"samples": [FOUR] * 4})
        assert response.status_code == 429 and response.headers["retry-after"] == "1"
        await hanging
        assert (await client.post("/v1/score", json={"samples": [FOUR] * 4})).status_code == 200


async def test_without_workers_nothing_is_scored_and_the_server_is_not_ready() -> None:
    async with _client(_app(Pool(workers=1))) as client:
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
        (result,) = (await client.post("/v1/score", json={"samples": [FOUR]})).json()["results"]
        assert result["status"] == "infra-error" and result["final"] is None
        payload = msgspec.to_builtins(cases()[0].payload)
        assert (await client.post("/judge", json=payload)).status_code == 503


async def test_the_verifiers_are_listed_with_what_they_judge(client: httpx.AsyncClient) -> None:
    listed = {entry["name"]: entry["judges"] for entry in (await client.get("/v1/verifiers")).json()["verifiers"]}
    assert listed.items() >= VERIFIERS.items()


async def test_metrics_health_and_cross_origin_requests(client: httpx.AsyncClient) -> None:
    assert (await client.get("/readyz")).status_code == 200
    assert (await client.get("/metrics")).headers["content-type"].startswith("text/plain")
    response = await client.get("/", headers={"origin": "http://elsewhere"})
    assert response.headers["access-control-allow-origin"] == "*"
