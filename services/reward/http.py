"""The reward service over HTTP: V-Triune's `/judge` and batches at `/v1/score`."""

import json
from collections.abc import Awaitable, Callable

import msgspec
from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.reward import vtriune, wire
from services.reward.bodies import BodyGate
from services.reward.config import RewardConfig
from services.reward.judge import failed
from services.reward.pool import Overloaded, Pool
from services.reward.scoring import score_samples
from services.reward.verdict import Sample, VerifierError
from services.reward.wire import ScoreRequest, ScoreResponse, ScoreResult
from shared.errors import Unavailable
from shared.http import add_health_routes
from shared.messages import Reward
from shared.metrics import Instruments
from shared.verifiers import known_verifiers

_MSGPACK = ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")
_LONGEST_DEADLINE_S = 600.0


class Judging:
    """The work behind the routes, on a pool of workers."""

    def __init__(self, pool: Pool, config: RewardConfig, instruments: Instruments) -> None:
        self._pool, self._config, self._instruments = pool, config, instruments

    async def judge(self, payload: vtriune.JudgePayload | vtriune.PlainPayload) -> dict[str, object]:
        """V-Triune's answer to one sample; raises Overloaded and Unavailable."""
        try:
            sample = vtriune.to_sample(payload, self._config.iou_threshold, self._config.deadline_s)
        except VerifierError as error:
            return vtriune.answer(failed(str(error)))
        self._pool.admit(1)
        (reward,) = await score_samples(self._pool, [sample], self._instruments)
        return vtriune.answer(reward)

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Three-valued results; raises Overloaded, and ValueError for a deadline out of range."""
        deadline_s = self._config.deadline_s if request.deadline_s is None else request.deadline_s
        if not 0.0 < deadline_s <= _LONGEST_DEADLINE_S:
            raise ValueError(f"deadline_s is {deadline_s:g}; expected above 0 and at most {_LONGEST_DEADLINE_S:g}")
        self._pool.admit(len(request.samples))
        prepared = [self._prepare(given, deadline_s) for given in request.samples]
        try:
            scored = iter(
                await score_samples(self._pool, [one for one in prepared if isinstance(one, Sample)], self._instruments)
            )
        except Unavailable as error:
            return ScoreResponse([_infra(one, str(error)) for one in request.samples])
        rewards = [next(scored) if isinstance(one, Sample) else one for one in prepared]
        return ScoreResponse([wire.to_result(*pair) for pair in zip(rewards, request.samples, strict=True)])

    def _prepare(self, given: wire.ScoreSample, deadline_s: float) -> Sample | Reward:
        try:
            return wire.to_sample(given, self._config.iou_threshold, deadline_s)
        except VerifierError as error:
            return failed(str(error))


def _infra(given: wire.ScoreSample, reason: str) -> ScoreResult:
    return ScoreResult(status="infra-error", error=reason, id=given.id)


def create_app(
    pool: Pool, config: RewardConfig, instruments: Instruments, is_ready: Callable[[], bool] | None = None
) -> ASGIApp:
    """The whole application; `is_ready` answers `/readyz` (default: the pool works)."""
    judging = Judging(pool, config, instruments)
    app = _fastapi()
    add_health_routes(app, is_ready or (lambda: pool.ready))

    @app.get("/")
    async def root() -> dict[str, str]:
        return {"message": "Reward Judge Server"}

    @app.get("/v1/verifiers")
    async def verifiers() -> dict[str, list[dict[str, str]]]:
        return {"verifiers": [{"name": name, "judges": text} for name, text in sorted(known_verifiers().items())]}

    app.router.routes.append(Route("/judge", _JudgeRoute(judging), methods=["POST"]))
    app.router.routes.append(Route("/v1/score", _score_route(judging), methods=["POST"]))
    gate = BodyGate(app, largest=config.body_bytes, together=config.bodies_bytes)
    return CORSMiddleware(gate, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])


def _fastapi() -> FastAPI:
    app = FastAPI(title="triune reward", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(Overloaded, _busy)
    app.add_exception_handler(Unavailable, _unavailable)
    app.add_exception_handler(RequestValidationError, _invalid)
    return app


class _JudgeRoute:
    """`POST /judge`: a plain body is read by msgspec, any other by FastAPI: its coercions and 422s are the contract."""

    def __init__(self, judging: Judging) -> None:
        self._judging = judging
        self._decoder = msgspec.json.Decoder(vtriune.PlainPayload)
        self._careful = _fastapi()

        @self._careful.post("/judge")
        async def judge(payload: vtriune.JudgePayload) -> Response:
            return _json(await judging.judge(payload))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        payload = self._plain(request.headers.get("content-type", ""), body)
        if payload is not None:
            await _json(await self._judging.judge(payload))(scope, receive, send)
            return

        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await self._careful(scope, replay, send)

    def _plain(self, content_type: str, body: bytes) -> vtriune.PlainPayload | None:
        if not content_type.startswith("application/json"):
            return None
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


def _score_route(judging: Judging) -> Callable[[Request], Awaitable[Response]]:
    from_json = msgspec.json.Decoder(ScoreRequest)
    from_msgpack = msgspec.msgpack.Decoder(ScoreRequest)

    async def score(request: Request) -> Response:
        packed = request.headers.get("content-type", "").partition(";")[0].strip() in _MSGPACK
        body = await request.body()
        try:
            response = await judging.score((from_msgpack if packed else from_json).decode(body))
        except (msgspec.DecodeError, ValueError) as error:
            return JSONResponse({"detail": f"the body is wrong: {error}"}, 422)
        if packed:
            return Response(msgspec.msgpack.encode(response), media_type=_MSGPACK[0])
        return _json(response)

    return score


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


async def _invalid(request: Request, error: Exception) -> Response:
    """FastAPI's own answer, in ASCII: it repeats the input, which may hold half a character."""
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    return Response(json.dumps({"detail": jsonable_encoder(errors)}), 422, media_type="application/json")


async def _busy(request: Request, error: Exception) -> Response:
    retry_after_s = error.retry_after_s if isinstance(error, Overloaded) else 1.0
    return JSONResponse({"detail": str(error)}, 429, {"Retry-After": f"{retry_after_s:.0f}"})


async def _unavailable(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})
