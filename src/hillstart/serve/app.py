"""The HTTP server: a page for people, `POST /predict` for programs."""

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from hillstart.serve.batching import CLOSE, RefusedError, Service
from hillstart.serve.bodies import most_bytes
from hillstart.serve.connections import IDLE_SECONDS, Connection, Server, most_connections
from hillstart.system.errors import InputError

LINGER_SECONDS, END_SECONDS = 1, 20
"""Time limits for reading the rest of a refused body, and for requests in flight when the server ends."""

PAGE = {
    "/": ("page.html", "text/html"),
    "/theme.css": ("../theme.css", "text/css"),
    "/camera.js": ("../camera.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/openapi.json": ("openapi.json", "application/json"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def application(service: Service, model: str, hosts: Sequence[str] = ("*",), origins: Sequence[str] = ()) -> Starlette:
    """The ASGI application.

    Args:
        service: classifies the pictures.
        model: the name of the networks in /health.
        hosts: names under which the server accepts requests; `*`: any.
        origins: the sites, beside the server's own, whose pages may send pictures and read the answers; `*`: any.
    """
    routes = [Route("/predict", _predict, methods=["POST"]), Route("/health", _health)]
    routes += [Route(path, _page) for path in PAGE]
    middleware = [Middleware(Guard, hosts=hosts)]
    if origins:
        cors = Middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], expose_headers=["Retry-After"]
        )
        middleware.append(cors)
    errors = (InputError, RefusedError, HTTPException, ClientDisconnect, Exception)
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=dict.fromkeys(errors, _refuse))
    app.state.service, app.state.model, app.state.origins = service, model, origins
    return app


def server(app: Starlette) -> Server:
    """Make the server of an application; start it by `run` with its listening sockets."""
    config = uvicorn.Config(
        app,
        http=Connection,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=END_SECONDS,
        backlog=max(1, most_connections() // 8),  # asyncio accepts so many before the first can be closed
    )
    return Server(config)


async def _predict(request: Request) -> Response:
    service: Service = request.app.state.service
    kind = request.headers.get("content-type", "")
    if int(request.headers.get("content-length", 0)) > most_bytes(kind, service.max_bytes):
        raise service.too_large(CLOSE)
    client = request.client.host if request.client else ""
    return _json(await service.answer(request.stream(), client, request.is_disconnected, kind))


async def _health(request: Request) -> Response:
    service: Service = request.app.state.service
    found = {
        "model": request.app.state.model,
        "classes": service.classifier.classes,
        "seeds": service.classifier.seeds,
        "calibrated": service.classifier.calibrated,
        "max_bytes": service.max_bytes,
        "max_pixels": service.max_pixels,
    }
    return _json(json.dumps(found))


async def _page(request: Request) -> Response:
    name, kind = PAGE[request.url.path]
    return Response((Path(__file__).parent / name).read_bytes(), headers=HEADERS, media_type=kind)


async def _refuse(request: Request, error: Exception) -> Response:
    sentence, status, headers = str(error), 400, dict[str, str]()
    if isinstance(error, RefusedError):
        status, headers = error.status, error.headers
    elif isinstance(error, HTTPException):
        status, headers = error.status_code, CLOSE | dict(error.headers or {})
        sentence = (
            f"{request.method} {request.url.path}: there is no such page; POST the bytes of a picture to /predict "
            "(/openapi.json describes it), or open / in a browser."
        )
    elif not isinstance(error, InputError | ClientDisconnect):
        status, sentence = 500, "the server failed at this picture; its log says why."
    return _json(json.dumps({"error": sentence}), status, headers)


def _json(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    kind = EarlyResponse if headers and "Connection" in headers else Response
    return kind(text, status, HEADERS | dict(headers or {}), "application/json")


class EarlyResponse(Response):
    """An answer sent before the end of a body.

    Some of the rest is read and dropped, because most clients read only after they have sent everything, and would see
    a broken connection.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        more, size, limit = True, 0, 2 * scope["app"].state.service.max_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while more and size < limit:
                    part = await receive()
                    more, size = part.get("more_body", False), size + len(part.get("body", b""))
        await send({"type": "http.response.body"})


class Guard:
    """Refuses unknown host names and, before reading the body, pictures that a page of another site sends."""

    def __init__(self, app: Any, hosts: Sequence[str]):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers, refused = Headers(scope=scope), None
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and _is_foreign(headers, scope["app"].state.origins):
            sentence = "pages of other sites may not send pictures here; --allow-origin lists those that may."
            refused = RefusedError(403, sentence, CLOSE)
        elif not await self._is_ours(scope) and ("host" in headers or scope["path"] != "/health"):
            # Load balancers ask for /health in HTTP/1.0, without a host.
            refused = RefusedError(400, "this server does not answer to that name; --allow-host gives it more.", CLOSE)
        answer = await _refuse(Request(scope), refused) if refused else self.app
        await answer(scope, receive, send)

    async def _is_ours(self, scope: Any) -> bool:
        """True if starlette lets the host name of a request pass. Its refusal is dropped: it is not in JSON."""
        passed = []

        async def note(*of_request: Any) -> None:
            passed.append(True)

        async def drop(part: Any) -> None:
            pass

        await TrustedHostMiddleware(note, [*self.hosts], www_redirect=False)(scope, drop, drop)  # type: ignore[arg-type]
        return bool(passed)


def _is_foreign(headers: Mapping[str, str], origins: Sequence[str]) -> bool:
    """True if a browser says that a page of another site sends this; other programs do not send these headers."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None and ("*" in origins or origin.lower() in origins):
        return False
    if site is not None:  # browsers omit it towards http:// addresses of other machines
        return site not in ("same-origin", "none")
    return origin is not None and origin.lower().partition("://")[2] != headers.get("host", "").lower()
