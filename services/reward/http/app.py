"""The reward service over HTTP: batches at `/v1/score`, V-Triune's `/judge`, and other trainers' protocols."""

import json

import msgspec
from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from services.reward.config import RewardConfig
from services.reward.http import vtriune
from services.reward.http.access import Access
from services.reward.http.bodies import BodyGate
from services.reward.http.requests import Judging
from services.reward.http.responses import MSGPACK, answered
from services.reward.http.trainers import Trainers
from services.reward.http.wire import ScoreRequest, ScoreResponse
from services.reward.scoring import Scorer
from shared.runtime.http import add_health_routes
from shared.samples.verifiers import known_verifiers


def create_app(scorer: Scorer, config: RewardConfig, *, token: str | None = None, cross_origin: bool = True) -> ASGIApp:
    """The whole application; ready while the pool's workers run. With a `token` only who has it may ask for rewards."""
    judging = Judging(scorer, config)
    quick = QuickRoutes(judging)
    app = FastAPI(title="triune reward", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(RequestValidationError, _invalid)
    add_health_routes(app, lambda: scorer.pool.ready)

    @app.get("/")
    async def root() -> dict[str, str]:
        return {"message": "Reward Judge Server"}

    @app.get("/v1/verifiers")
    async def verifiers() -> dict[str, list[dict[str, str]]]:
        return {"verifiers": [{"name": name, "judges": text} for name, text in sorted(known_verifiers().items())]}

    @app.get("/reverify_mode")
    async def reverify_mode() -> str:
        return "stateless"  # NeMo-Gym: a stored response may be judged again

    @app.post("/seed_session")
    async def seed_session() -> dict[str, str]:
        return {}  # NeMo-Gym: there is no state to prepare

    @app.post("/judge")
    async def judge(payload: vtriune.JudgePayload) -> Response:
        return await answered(judging.judge(payload))

    gate = BodyGate(
        app,
        {"/judge": quick.judge, "/v1/score": quick.score, **Trainers(judging).routes},
        largest=config.body_bytes,
        together=config.bodies_bytes,
    )
    guarded = gate if token is None else Access(gate, token)
    return _for_browsers(guarded) if cross_origin else guarded


def _for_browsers(app: ASGIApp) -> ASGIApp:
    """`app` with what a browser's page of any origin needs to ask it; what names no origin is no browser's."""
    cors = CORSMiddleware(app, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        from_page = scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"])
        await (cors if from_page else app)(scope, receive, send)

    return choose


class QuickRoutes:
    """The two routes that trainers load, from body to response, without FastAPI's way there."""

    def __init__(self, judging: Judging) -> None:
        self._judging = judging
        self._plain = msgspec.json.Decoder(vtriune.PlainPayload)
        self._json = msgspec.json.Decoder(ScoreRequest)
        self._msgpack = msgspec.msgpack.Decoder(ScoreRequest)

    async def judge(self, content_type: str, body: bytes) -> Response | None:
        """The answer to a plain body; None for any other: FastAPI's coercions and 422s are V-Triune's contract."""
        if not content_type.startswith("application/json"):
            return None
        try:
            payload = self._plain.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return await answered(self._judging.judge(payload))

    async def score(self, content_type: str, body: bytes) -> Response:
        """Three-valued results in the encoding of the request; 422 with the place of a mistake."""
        packed = content_type.partition(";")[0].strip() in MSGPACK
        return await answered(self._scored(body, packed=packed), packed=packed)

    async def _scored(self, body: bytes, *, packed: bool) -> ScoreResponse:
        return await self._judging.score((self._msgpack if packed else self._json).decode(body))


async def _invalid(request: Request, error: Exception) -> Response:
    """FastAPI's own answer, in ASCII: it repeats the input, which may hold half a character."""
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    return Response(json.dumps({"detail": jsonable_encoder(errors)}), 422, media_type="application/json")
