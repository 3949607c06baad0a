"""The bodies of `POST /v1/score`, JSON or msgpack, and the rows of a file to be scored: one form for both."""

import base64
import contextlib
from typing import Literal

import msgspec

from services.reward.answers.dialect import TOLERANT, V_TRIUNE
from services.reward.http.vtriune import grid_sizes, is_original, progress
from services.reward.verdict import Context, Sample, VerifierError
from shared.messages import Reward, RewardSpec


class ScoreSample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sample. `resized` and `original` hold (width, height) in pixels, one an image.

    `params` are the verifier's, as in a data row; V-Triune's `step`, `total_steps` and `image_grid_thw` in it count
    where the fields here are absent, and its `is_training` asks for V-Triune's dialect and for no checks of the sample.
    `options` are those of a job's reward section. `question` and `images` (`data:` URLs) are what a judge sees beside
    the answer. `id`, `prompt` and `data_source` are for the caller alone.
    """

    completion: str
    verifier: str
    ground_truth: str
    answer: str = ""
    accuracy_ratio: float | None = None
    format_ratio: float | None = None
    params: object = None
    options: dict[str, object] | None = None
    step: float | None = None
    total_steps: float | None = None
    resized: list[tuple[float, float]] | None = None
    original: list[tuple[float, float]] | None = None
    question: str = ""
    images: list[str] = []
    id: str | int | None = None
    prompt: object = None
    data_source: str | None = None


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Samples to score; `deadline_s` holds for each of them."""

    samples: list[ScoreSample]
    deadline_s: float | None = None


class ScoreResult(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one sample. With a status other than `ok` there are no numbers, and `error` says why."""

    status: Literal["ok", "verifier-error", "infra-error"]
    final: float | None = None
    accuracy: float | None = None
    format: float | None = None
    parts: dict[str, float] = {}
    error: str = ""
    id: str | int | None = None


class ScoreResponse(msgspec.Struct, frozen=True):
    """One result a sample, in order."""

    results: list[ScoreResult]


def to_sample(given: ScoreSample, iou_threshold: str | float, deadline_s: float) -> Sample:
    """The sample to judge; `iou_threshold` holds where its options name none. Raises VerifierError."""
    params = {} if given.params is None else given.params
    if not isinstance(params, dict):
        raise VerifierError(f"params is {params!r}; expected a table")
    original = is_original(params)
    spec = RewardSpec(
        verifier=given.verifier,
        answer=given.answer,
        ground_truth=given.ground_truth,
        accuracy_ratio=1.0 if given.accuracy_ratio is None else given.accuracy_ratio,
        format_ratio=0.1 if given.format_ratio is None else given.format_ratio,
        params=params,
        options={
            "iou_threshold": iou_threshold,
            "dialect": V_TRIUNE if original else TOLERANT,
            **(given.options or {}),
        },
    )
    step = params.get("step", 0) if given.step is None else given.step
    total = params.get("total_steps", 1) if given.total_steps is None else given.total_steps
    sizes = given.resized
    if sizes is None:
        sizes = grid_sizes(params.get("image_grid_thw")) if params.get("det_verifier_normalized") else []
    context = Context(resized=sizes, original=given.original or [], progress=progress(step, total))
    return Sample(
        completion=given.completion,
        spec=spec,
        context=context,
        deadline_s=deadline_s,
        checked=not original,
        question=given.question,
        images=[_image(url) for url in given.images],
    )


def _image(url: str) -> bytes:
    """The bytes of a `data:` URL; no other is fetched. Raises VerifierError."""
    head, _, body = url.partition(",")
    if head.startswith("data:image/") and head.endswith(";base64"):
        with contextlib.suppress(ValueError):
            return base64.b64decode(body, validate=True)
    raise VerifierError(f"an image is {url[:60]!r}; expected data:image/…;base64,…")


def to_result(reward: Reward, given: ScoreSample) -> ScoreResult:
    """The reward as `/v1/score` tells it."""
    if not reward.ok:
        return ScoreResult(status="verifier-error", error=reward.error, id=given.id)
    return ScoreResult(
        status="ok",
        final=reward.final,
        accuracy=reward.accuracy,
        format=reward.format,
        parts=reward.parts,
        id=given.id,
    )
