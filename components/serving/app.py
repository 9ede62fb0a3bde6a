"""The routes of the server."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import __version__
from ..common.errors import expected, unknown
from .bodies import Refusal, from_json, reader_of
from .desk import Desk, no_model
from .holder import ModelHolder
from .metrics import Metrics
from .settings import ServeSettings

Endpoint = Callable[[Request], Awaitable[Response]]

ROUTES = {
    "GET /": "this list",
    "GET /health": "200 while the process lives",
    "GET /ready": "the model, or 503 with the reason",
    "GET /metrics": "numbers for Prometheus",
    "POST /predict": 'a picture, or JSON {"instances": [{"image": "base64"}]}',
    "GET /v1/models": "KServe V1: the models",
    "GET /v1/models/{name}": "KServe V1: whether the model is ready",
    "POST /v1/models/{name}:predict": 'KServe V1: JSON {"instances": [{"image": "base64"}]}',
}
"""Every route, and what it gives."""


def make_app(holder: ModelHolder, settings: ServeSettings, metrics: Metrics) -> Starlette:
    """Builds the ASGI application; it starts nothing.

    Args:
        holder: Has the model.
        settings: Limits.
        metrics: Counts requests; what ``/metrics`` shows.

    Returns:
        The application.
    """
    pages = _Pages(holder, metrics, Desk(holder, settings, metrics))
    endpoints: dict[str, Endpoint] = {
        "GET /": pages.index,
        "GET /health": pages.health,
        "GET /ready": pages.ready,
        "GET /metrics": pages.metrics,
        "POST /predict": pages.predict,
        "GET /v1/models": pages.models,
        "POST /v1/models/{name}:predict": pages.kserve_predict,
        "GET /v1/models/{name}": pages.kserve_model,
    }
    routes = []
    for place, endpoint in endpoints.items():
        method, path = place.split()
        routes.append(Route(path, endpoint, methods=[method], name=path))
    names = {route.endpoint: route.path for route in routes}
    return Starlette(
        routes=routes,
        middleware=[Middleware(_Counting, metrics=metrics, names=names)],
        exception_handlers={Refusal: _refused, HTTPException: _not_routed, Exception: _broken},
    )


class _Pages:
    """The endpoints."""

    def __init__(self, holder: ModelHolder, metrics: Metrics, desk: Desk) -> None:
        self._holder, self._metrics, self._desk = holder, metrics, desk

    async def index(self, request: Request) -> Response:
        return JSONResponse({"server": f"ferry {__version__}", "model": self._holder.name, "endpoints": ROUTES})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        model = self._holder.current
        if model is None:
            raise no_model(self._holder)
        return JSONResponse({**model.to_json(), "classes": list(model.source.classes)})

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), headers={"Content-Type": self._metrics.content_type})

    async def predict(self, request: Request) -> Response:
        return JSONResponse(await self._desk.answer(request, reader_of(request.headers.get("content-type", ""))))

    async def models(self, request: Request) -> Response:
        return JSONResponse({"models": [self._holder.name]})

    async def kserve_model(self, request: Request) -> Response:
        if request.path_params["name"].endswith(":predict"):  # that route takes no GET
            raise HTTPException(405, headers={"Allow": "POST"})
        self._check_name(request)
        if self._holder.current is None:
            raise no_model(self._holder)
        return JSONResponse({"name": self._holder.name, "ready": True})

    async def kserve_predict(self, request: Request) -> Response:
        self._check_name(request)
        return JSONResponse(await self._desk.answer(request, from_json))  # KServe's clients may name no type

    def _check_name(self, request: Request) -> None:
        name = request.path_params["name"]
        if name != self._holder.name:
            raise Refusal(404, str(unknown("model", name, [self._holder.name])))


class _Counting:
    """Counts requests by route and status, and the time that they take."""

    def __init__(self, app: ASGIApp, metrics: Metrics, names: dict[Any, str]) -> None:
        self._app, self._metrics, self._names = app, metrics, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, code = time.perf_counter(), 500  # what a client gets where there is no answer

        async def noting(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = self._names.get(scope.get("endpoint"), "other")
            self._metrics.request(route, code, time.perf_counter() - began)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise error
    said = str(error).encode("utf-8", "backslashreplace").decode()  # what a client sent may be half a character
    return JSONResponse({"error": said}, error.status, headers=error.headers)


async def _not_routed(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    message, headers = str(error.detail), dict(error.headers or {})
    if error.status_code == 404:
        message = str(expected("path", "one of the server's", request.url.path, "See: GET /"))
    if error.status_code == 405:
        message = str(expected("method", headers.get("Allow", "another"), request.method, "See: GET /"))
    return JSONResponse({"error": message}, error.status_code, headers=headers)


async def _broken(request: Request, error: Exception) -> Response:
    message = "Expected `server` to answer, but got an error of its own. See the server's log."
    return JSONResponse({"error": message}, 500)
