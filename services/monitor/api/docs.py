"""`/docs`: the OpenAPI document as a page to read and to try, its scripts from a Python package and no CDN."""

from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

_ASSETS = "/docs/assets"


def add_docs(app: FastAPI) -> None:
    """Serve the page on `app`; calls made from it carry the bearer token that is entered there."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Triune: REST API",
            swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{_ASSETS}/swagger-ui.css",
            swagger_favicon_url="/page/icon.svg",
            swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True},
        )

    # Of this package the assets alone are used: Swagger UI 5, which knows OpenAPI 3.1.
    app.mount(_ASSETS, StaticFiles(directory=str(files("fastapi_offline") / "static")))


def with_bearer(document: dict[str, Any]) -> dict[str, Any]:
    """`document` with the bearer token as its way to authorize."""
    document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"bearer": []}, {}]
    return document
