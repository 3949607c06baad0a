"""Text as people read it, over REST: markdown as harmless HTML."""

import asyncio
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints

from services.monitor.prose import MAX_LETTERS, to_html

Text = Annotated[str, StringConstraints(max_length=MAX_LETTERS)]


class Texts(BaseModel):
    """What is to be rendered."""

    texts: list[Text] = Field(max_length=200, examples=[["half of $x$ is **4**"]])


class Rendered(BaseModel):
    """One HTML fragment a text; formulas are elements of class `math` that hold their LaTeX."""

    html: list[str]


def prose_routes() -> APIRouter:
    """POST /v1/prose."""
    router = APIRouter(tags=["page"])

    @router.post("/v1/prose")
    async def prose(body: Texts) -> Rendered:
        """Markdown as HTML that is safe to show, whatever a model has written."""
        return Rendered(html=await asyncio.to_thread(lambda: [to_html(text) for text in body.texts]))

    return router
