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
from starlette.responses import JSONResponse, Response

from services.reward.judging import Judging, TooMany
from services.reward.workers.pool import Overloaded
from services.reward.workers.wire import ScoreRequest, ScoreResult, ScoreSample
from shared.errors import Unavailable

_SPECIAL_END = re.compile(r"(?:\s*(?:<\|[a-z_]{1,32}\|>|</s>|<eos>|<end_of_turn>))+\s*$")
_SPECIAL_START = re.compile(r"<\|[a-z_]{1,32}\|>|</?s>")
_DEFAULT_VERIFIER = "mathverify"
_OWN = ("verifier_parm", "solution", "reward_verifier")  # V-Triune's and the data set's words for the same fields
_FIELDS = frozenset(ScoreSample.__struct_fields__) - {"completion"}

Translate = Callable[[bytes], Awaitable[Response]]


class Trainers:
    """The three routes, from body to response."""

    def __init__(self, judging: Judging) -> None:
        self._judging = judging

    @property
    def routes(self) -> Mapping[str, Callable[[str, bytes], Awaitable[Response | None]]]:
        """Path → content type and body to response."""
        return {"/get_reward": self._openrlhf, "/rm": self._slime, "/verify": self._nemo_gym}

    async def _openrlhf(self, content_type: str, body: bytes) -> Response:
        """`{"query": [prompt + response], "prompts": […], "labels": […]}` → `{"rewards": […], "scores": […], …}`."""

        async def work() -> Response:
            given = msgspec.json.decode(body, type=_Queries)
            if not len(given.query) == len(given.prompts) == len(given.labels):
                raise ValueError("query, prompts and labels have different lengths")
            rows = zip(given.query, given.prompts, given.labels, strict=True)
            results = await self._score([sample_of(_response(query, prompt), label) for query, prompt, label in rows])
            _refuse_failures(results)
            logs = {name: [getattr(result, name) for result in results] for name in ("accuracy", "format")}
            return _json(
                {"rewards": [result.final for result in results], "scores": logs["accuracy"], "extra_logs": logs}
            )

        return await _answered(work)

    async def _slime(self, content_type: str, body: bytes) -> Response:
        """`{"prompt": …, "response": str, "label": any}` → the reward, a number."""

        async def work() -> Response:
            given = msgspec.json.decode(body, type=_Labelled)
            results = await self._score([sample_of(_SPECIAL_END.sub("", given.response), given.label)])
            _refuse_failures(results)
            return _json(results[0].final)

        return await _answered(work)

    async def _nemo_gym(self, content_type: str, body: bytes) -> Response:
        """The request with `reward` and `reward_components`.

        Without a verdict an HTTP error, as for the others: that protocol's own failure has a `_ng_failure_class` beside
        a `reward` that must be a number, which whoever does not look at the class trains on.
        """

        async def work() -> Response:
            given = msgspec.json.decode(body, type=dict[str, Any])
            label = given.get("verifier_metadata")
            label = dict(label) if isinstance(label, dict) else {}
            for name in (*_FIELDS, *_OWN, "expected_answer"):
                if name in given and name not in label and name != "id":
                    label[name] = given[name]
            results = await self._score([sample_of(_output_text(given.get("response")), label)])
            _refuse_failures(results)
            components = {"accuracy": results[0].accuracy, "format": results[0].format}
            return _json(given | {"reward": results[0].final, "reward_components": components, **components})

        return await _answered(work)

    async def _score(self, samples: list[ScoreSample]) -> list[ScoreResult]:
        results: list[ScoreResult] = (await self._judging.score(ScoreRequest(samples=samples))).results
        return results


class _Queries(msgspec.Struct, frozen=True):
    query: list[str]
    prompts: list[str]
    labels: list[Any]


class _Labelled(msgspec.Struct, frozen=True):
    response: str
    label: Any = None
    prompt: Any = None


class _Unscorable(Exception):
    """A sample of a protocol without a place for errors could not be scored."""


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


def _refuse_failures(results: list[ScoreResult]) -> None:
    for place, result in enumerate(results):
        if result.status == "infra-error":
            raise Unavailable(result.error)
        if result.status == "verifier-error":
            raise _Unscorable(f"sample {place}: {result.error}")


async def _answered(work: Callable[[], Awaitable[Response]]) -> Response:
    try:
        return await work()
    except _Unscorable as error:
        return JSONResponse({"detail": str(error)}, 422)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
        return JSONResponse({"detail": f"the body is wrong: {error}"}, 422)
    except TooMany as error:
        return JSONResponse({"detail": str(error)}, 413)
    except Overloaded as error:
        return JSONResponse({"detail": str(error)}, 429, {"Retry-After": f"{error.retry_after_s:.0f}"})
    except Unavailable as error:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
