"""Other trainers' reward protocols, each translated to samples of `/v1/score` and back.

`/get_reward` is OpenRLHF's (0.11, `openrlhf/utils/agent.py`), `/rm` slime's and miles' (`slime/rollout/rm_hub`),
`/verify` NeMo-Gym's (`nemo_gym/base_resources_server.py`). What each calls a label says how to judge: an object, or the
JSON text of one, with the fields of a `ScoreSample` ({"verifier": …, "ground_truth": …, "params": …}); anything else is
the ground truth of a `mathverify` sample. An error is an HTTP error: 422 for a sample that cannot be scored, 503 where
no worker was there. It is never a reward of 0.
"""

import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from services.reward.http.bodies import Quick
from services.reward.http.requests import Judging
from services.reward.http.responses import Unscorable, answered
from services.reward.http.wire import ScoreRequest, ScoreResult, ScoreSample
from shared.errors import Unavailable

_SPECIAL_END = re.compile(r"(?:\s*(?:<\|[a-z_]{1,32}\|>|</s>|<eos>|<end_of_turn>))+\s*$")
_SPECIAL_START = re.compile(r"<\|[a-z_]{1,32}\|>|</?s>")
_DEFAULT_VERIFIER = "mathverify"
_OWN = ("verifier_parm", "solution", "reward_verifier")  # V-Triune's and the data set's words for the same fields
_FIELDS = frozenset(ScoreSample.__struct_fields__) - {"completion"}


class Trainers:
    """The three routes, from body to response."""

    def __init__(self, judging: Judging) -> None:
        self._judging = judging

    @property
    def routes(self) -> Mapping[str, Quick]:
        """Path → content type and body to response."""
        works = {"/get_reward": self._openrlhf, "/rm": self._slime, "/verify": self._nemo_gym}
        return {path: _route(work) for path, work in works.items()}

    async def _openrlhf(self, body: bytes) -> object:
        """`{"query": [prompt + response], "prompts": […], "labels": […]}` → `{"rewards": […], "scores": […], …}`."""
        given = msgspec.json.decode(body, type=_Queries)
        if not len(given.query) == len(given.prompts) == len(given.labels):
            raise ValueError("query, prompts and labels have different lengths")
        rows = zip(given.query, given.prompts, given.labels, strict=True)
        results = await self._score([sample_of(_response(query, prompt), label) for query, prompt, label in rows])
        logs = {name: [getattr(result, name) for result in results] for name in ("accuracy", "format")}
        return {"rewards": [result.final for result in results], "scores": logs["accuracy"], "extra_logs": logs}

    async def _slime(self, body: bytes) -> object:
        """`{"prompt": …, "response": str, "label": any}` → the reward, a number."""
        given = msgspec.json.decode(body, type=_Labelled)
        (result,) = await self._score([sample_of(_SPECIAL_END.sub("", given.response), given.label)])
        return result.final

    async def _nemo_gym(self, body: bytes) -> object:
        """The request with `reward` and `reward_components`.

        Without a verdict an HTTP error, as for the others: that protocol's own failure has a `_ng_failure_class` beside
        a `reward` that must be a number, which whoever does not look at the class trains on.
        """
        given = msgspec.json.decode(body, type=dict[str, Any])
        label = given.get("verifier_metadata")
        label = dict(label) if isinstance(label, dict) else {}
        for name in (*_FIELDS, *_OWN, "expected_answer"):
            if name in given and name not in label and name != "id":
                label[name] = given[name]
        (result,) = await self._score([sample_of(_output_text(given.get("response")), label)])
        components = {"accuracy": result.accuracy, "format": result.format}
        return given | {"reward": result.final, "reward_components": components, **components}

    async def _score(self, samples: list[ScoreSample]) -> list[ScoreResult]:
        """Their results; raises Unscorable and Unavailable for the first that has none."""
        results = (await self._judging.score(ScoreRequest(samples=samples))).results
        for place, result in enumerate(results):
            if result.status == "infra-error":
                raise Unavailable(result.error)
            if result.status == "verifier-error":
                raise Unscorable(f"sample {place}: {result.error}")
        return results


def _route(work: Callable[[bytes], Awaitable[object]]) -> Quick:
    async def answer(content_type: str, body: bytes) -> Response:
        return await answered(work(body))

    return answer


class _Queries(msgspec.Struct, frozen=True):
    query: list[str]
    prompts: list[str]
    labels: list[Any]


class _Labelled(msgspec.Struct, frozen=True):
    response: str
    label: Any = None
    prompt: Any = None


def sample_of(completion: str, label: object) -> ScoreSample:
    """The sample that `label` asks for; raises ValueError for one that has no ground truth."""
    if isinstance(label, str) and label.lstrip().startswith("{"):
        with contextlib.suppress(ValueError):  # a set such as {1, 2} is a ground truth
            label = json.loads(label)
    if not isinstance(label, Mapping):
        if label is None or isinstance(label, (list, bool)):
            raise ValueError(f"the label is {label!r}; expected a ground truth, or an object with one")
        return ScoreSample(completion=completion, verifier=_DEFAULT_VERIFIER, ground_truth=str(label))
    fields = {name: value for name, value in label.items() if name in _FIELDS}
    for name, others in (
        ("ground_truth", ("solution", "expected_answer", "answer")),
        ("verifier", ("reward_verifier",)),
        ("params", ("verifier_parm",)),
    ):
        found = next((label[other] for other in others if label.get(other) is not None), None)
        if fields.get(name) is None and found is not None:
            fields[name] = found
    fields.setdefault("verifier", _DEFAULT_VERIFIER)
    if isinstance(fields.get("ground_truth"), (int, float)):
        fields["ground_truth"] = str(fields["ground_truth"])
    return msgspec.convert({"completion": completion, **fields}, ScoreSample)


def _response(query: str, prompt: str) -> str:
    """What follows the prompt in `query`, whose special tokens are kept; without those at its end."""
    if query.startswith(prompt):
        query = query[len(prompt) :]
    elif (bare := _SPECIAL_START.sub("", prompt)) and (place := query.find(bare)) >= 0:
        query = query[place + len(bare) :]
    return _SPECIAL_END.sub("", query)


def _output_text(response: object) -> str:
    """The text of the last message in an OpenAI Responses object; raises ValueError where there is none."""
    if isinstance(response, str):
        return response
    items = response.get("output") if isinstance(response, Mapping) else None
    for item in reversed(items if isinstance(items, list) else []):
        if isinstance(item, Mapping) and item.get("type", "message") == "message":
            content = item.get("content")
            if isinstance(content, str):
                return content
            parts = [part.get("text", "") for part in content or [] if isinstance(part, Mapping)]
            return "".join(part for part in parts if isinstance(part, str))
    raise ValueError("response has no output message; expected an OpenAI Responses object")
