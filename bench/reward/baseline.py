"""The server that the service is compared with: one sample a request, judged inside `async def`.

The shape of V-Triune's reward server, written anew: each uvicorn process judges one request at a time in its event
loop. `--verifiers ours` calls this repository's verifiers, caches and all; `library` calls math-verify as V-Triune
does, parse, parse and verify for each request.
"""

import json
import os
from typing import Any

from fastapi import FastAPI
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from pydantic import BaseModel

from services.reward.answers.tags import tag_format
from services.reward.judging.judge import judge as judge_sample
from services.reward.verdict import Context, Sample
from shared.messages import RewardSpec

_CONFIG = [
    LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            nits=False, malformed_operators=False, basic_latex=True, boxed="all", units=True
        ),
        boxed_match_priority=0,
        try_extract_without_anchor=False,
    )
]
LIBRARY = os.environ.get("BENCH_VERIFIERS") == "library"
app = FastAPI()


class Body(BaseModel):
    """One sample."""

    response: str
    prompt: str
    answer: str
    solution: str
    data_source: str
    reward_verifier: str
    reward_verifier_parm: str
    format_ratio: float | None = None
    accuracy_ratio: float | None = None


@app.get("/")
async def root() -> dict[str, str]:
    return {"message": "Reward Judge Server"}


@app.post("/judge")
async def judge(body: Body) -> dict[str, Any]:
    """The rewards of one sample."""
    if LIBRARY and body.reward_verifier == "mathverify":
        return {"rewards": _library(body)}
    parm = json.loads(body.reward_verifier_parm)
    grid = parm.get("image_grid_thw") or []
    spec = RewardSpec(
        verifier=body.reward_verifier,
        answer=body.answer,
        ground_truth=body.solution,
        params=parm,
        accuracy_ratio=body.accuracy_ratio or 1.0,
        format_ratio=body.format_ratio or 0.0,
    )
    context = Context(resized=[(row[2], row[1]) for row in grid], progress=parm["step"] / parm["total_steps"])
    reward = judge_sample(Sample(completion=body.response, spec=spec, context=context))
    return {"rewards": {"final": reward.final, "accuracy": reward.accuracy, "format": reward.format, **reward.parts}}


def _library(body: Body) -> dict[str, float]:
    truth = parse(body.solution.lower(), extraction_mode="first_match")
    answer = parse(body.response.lower(), extraction_config=_CONFIG, extraction_mode="first_match")
    accuracy = float(bool(truth) and verify(truth, answer))
    return {"final": accuracy, "accuracy": accuracy, "format": tag_format(body.response)}
