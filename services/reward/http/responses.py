"""What a route answers: a result as a body, or the HTTP error that its failure is."""

from collections.abc import Awaitable

import msgspec
from starlette.responses import JSONResponse, Response

from services.reward.http.requests import TooMany
from services.reward.workers.pool import Overloaded
from shared.errors import Unavailable

MSGPACK = ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")


class Unscorable(Exception):
    """A sample of a protocol without a place for errors could not be scored."""


async def answered(work: Awaitable[object], *, packed: bool = False) -> Response:
    """What `work` returns, as JSON or `packed`.

    422 for a body that is wrong or a sample that cannot be scored, 413 for too many samples, 429 for a full queue, 503
    where nobody could judge.
    """
    try:
        result = await work
    except Unscorable as error:
        return JSONResponse({"detail": str(error)}, 422)
    except (msgspec.MsgspecError, ValueError) as error:
        return JSONResponse({"detail": f"the body is wrong: {error}"}, 422)
    except TooMany as error:
        return JSONResponse({"detail": str(error)}, 413)
    except Overloaded as error:
        return JSONResponse({"detail": str(error)}, 429, {"Retry-After": f"{error.retry_after_s:.0f}"})
    except Unavailable as error:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})
    if packed:
        return Response(msgspec.msgpack.encode(result), media_type=MSGPACK[0])
    return Response(msgspec.json.encode(result), media_type="application/json")
