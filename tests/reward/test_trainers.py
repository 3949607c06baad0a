"""Other trainers' protocols: each gives `/v1/score`'s reward, and an error as an error of its own kind."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from services.reward.config import RewardConfig
from services.reward.http.app import create_app
from services.reward.metrics import instruments
from services.reward.scoring import Scorer
from services.reward.workers.pool import Pool
from tests.reward.samples import math

pytestmark = pytest.mark.asyncio(loop_scope="module")

_TEXT = "<think>\na\n</think>\n<answer>\n\\boxed{4}\n</answer>"
_PROMPT = "<|im_start|>user\nhow many?<|im_end|>\n<|im_start|>assistant\n"
_LABEL = {"verifier": "count", "ground_truth": "4", "format_ratio": 0.5}


def _client(pool: Pool, token: str | None = None) -> httpx.AsyncClient:
    app = create_app(Scorer(pool, instruments()), RewardConfig(), token=token)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://reward")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(pool: Pool) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(pool) as made:
        yield made


def _response(text: str) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": text, "annotations": []}]
    return {
        "output": [{"type": "reasoning", "summary": []}, {"type": "message", "role": "assistant", "content": parts}]
    }


@pytest.mark.parametrize("label", ["\\boxed{4}", 4, _LABEL, json.dumps(_LABEL)])
async def test_every_protocol_gives_the_reward_of_a_batch(client: httpx.AsyncClient, label: Any) -> None:
    sample = dict(label) if isinstance(label, dict) else json.loads(label) if str(label).startswith("{") else {}
    sample = {"verifier": "mathverify", "ground_truth": str(label), **sample, "completion": _TEXT}
    (result,) = (await client.post("/v1/score", json={"samples": [sample]})).json()["results"]
    assert result["status"] == "ok" and result["accuracy"] == 1.0
    query = {"query": [f"{_PROMPT}{_TEXT}<|im_end|>\n"], "prompts": [_PROMPT], "labels": [label]}
    openrlhf = (await client.post("/get_reward", json=query)).json()
    assert openrlhf["rewards"] == [result["final"]] and openrlhf["scores"] == [1.0]
    slime = await client.post("/rm", json={"prompt": _PROMPT, "response": _TEXT, "label": label})
    assert slime.json() == result["final"]
    fields = label if isinstance(label, dict) else {"expected_answer": label}
    fields = json.loads(label) if str(label).startswith("{") and isinstance(label, str) else fields
    body = {"responses_create_params": {"input": []}, "response": _response(_TEXT), "verifier_metadata": fields}
    nemo = (await client.post("/verify", json=body)).json()
    assert nemo["reward"] == result["final"] and nemo["reward_components"]["accuracy"] == 1.0
    assert nemo["verifier_metadata"] == fields


async def test_a_sample_that_cannot_be_scored_is_each_protocol_s_error(client: httpx.AsyncClient) -> None:
    label = {"verifier": "count", "ground_truth": "many"}
    told = "is no whole number"
    query = {"query": ["a", "b"], "prompts": ["", ""], "labels": [_LABEL, label]}
    openrlhf = await client.post("/get_reward", json=query)
    assert openrlhf.status_code == 422 and told in openrlhf.json()["detail"] and "sample 1" in openrlhf.json()["detail"]
    slime = await client.post("/rm", json={"prompt": "", "response": "a", "label": label})
    assert slime.status_code == 422 and told in slime.json()["detail"]
    nemo = await client.post("/verify", json={"response": _response("a"), "verifier_metadata": label})
    assert nemo.status_code == 422 and told in nemo.json()["detail"] and "reward" not in nemo.json()


async def test_without_workers_each_protocol_says_so() -> None:
    async with _client(Pool(workers=1)) as client:
        query = {"query": ["a"], "prompts": [""], "labels": ["4"]}
        nemo = {"response": _response("a"), "expected_answer": "4"}
        for path, body in (("/get_reward", query), ("/rm", {"response": "a", "label": "4"}), ("/verify", nemo)):
            response = await client.post(path, json=body)
            assert response.status_code == 503 and response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/get_reward", {"query": ["a"], "prompts": [], "labels": ["4"]}),
        ("/get_reward", {"query": "a"}),
        ("/rm", {"response": "a"}),
        ("/rm", {"response": "a", "label": {"verifier": "count"}}),
        ("/verify", {"response": {}, "expected_answer": "4"}),
        ("/verify", {"response": _response("a")}),
    ],
)
async def test_a_wrong_body_is_refused(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 422 and response.json()["detail"]


async def test_a_token_guards_everything_but_the_signs_of_life(pool: Pool) -> None:
    async with _client(pool, token="secret") as client:
        for path in ("/", "/healthz", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            assert (await client.post("/v1/score", json={"samples": []}, headers=headers)).status_code == 401
            assert (await client.get("/v1/verifiers", headers=headers)).status_code == 401
        allowed = {"authorization": "Bearer secret"}
        assert (await client.post("/v1/score", json={"samples": []}, headers=allowed)).status_code == 200


async def test_an_equal_sample_is_judged_once_and_an_error_every_time() -> None:
    async with Pool(workers=1, cached_rewards=2) as pool:
        first = await pool.score([math("4"), math("5"), math("4", truth="")])
        again = await pool.score([math("4"), math("5"), math("4", truth="")])
        assert first == again and [reward.ok for reward in again] == [True, True, False]
        assert pool.counts.cached == 2
        await pool.score([math("6"), math("7")])  # two newer ones: the first is forgotten
        await pool.score([math("4")])
        assert pool.counts.cached == 2


_PLUGIN = """
def half(completion, spec, context):
    return 0.5

def wrong(completion, spec, context):
    return "much"

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(solution_str == ground_truth), "length": len(solution_str)}

def _helper(completion, spec, context):
    return 1.0
"""


async def test_a_job_s_file_adds_verifiers_where_the_deployment_allows_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(_PLUGIN)
    (tmp_path / "broken.py").write_text("raise ValueError('no')\ndef a(completion, spec, context): return 1.0\n")

    async def ask(pool: Pool, verifier: str, *plugins: str) -> dict[str, Any]:
        sample = {"completion": "four", "verifier": verifier, "ground_truth": "four", "options": {"plugins": plugins}}
        async with _client(pool) as client:
            (result,) = (await client.post("/v1/score", json={"samples": [sample]})).json()["results"]
        return result

    async with Pool(workers=1, plugin_roots=(tmp_path,)) as pool:
        assert (await ask(pool, "half", "mine.py"))["accuracy"] == 0.5
        verl = await ask(pool, "mine", str(tmp_path / "mine.py"))
        assert verl["accuracy"] == 1.0 and verl["parts"] == {"length": 4.0}
        assert "returned 'much'; expected a number" in (await ask(pool, "wrong", "mine.py"))["error"]
        assert "is unknown" in (await ask(pool, "_helper", "mine.py"))["error"]
        assert "ValueError: no" in (await ask(pool, "a", "broken.py"))["error"]
        for outside in ("../mine.py", "/etc/passwd", "missing.py"):
            assert "no file under the folders" in (await ask(pool, "half", outside))["error"]
        assert pool.counts.replaced == 0
    async with Pool(workers=1) as pool:
        assert "TRIUNE_REWARD_PLUGINS" in (await ask(pool, "half", "mine.py"))["error"]


async def test_connections_share_one_queue_and_stay_open(pool: Pool) -> None:
    async with _client(pool) as one, _client(pool) as other:
        body = {"samples": [{"completion": _TEXT, "verifier": "count", "ground_truth": "4"}]}
        answers = await asyncio.gather(*(client.post("/v1/score", json=body) for client in (one, other) * 20))
    assert {answer.json()["results"][0]["accuracy"] for answer in answers} == {1.0}
