"""Pictures over HTTP: a page for people, `POST /predict` for programs. Needs neither Lightning nor Hydra."""

import asyncio
import contextlib
import ipaddress
import json
import re
import signal
import socket
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from hillstart.errors import InputError
from hillstart.inference import load
from hillstart.service import CLOSE, MAX_BYTES, MAX_PIXELS, WAITING, RefusedError, Service
from hillstart.terminal import end, visible
from hillstart.voting import UNSURE_BELOW

LINGER_SECONDS, END_SECONDS = 1, 20
"""For a body that was refused to be heard out, and for requests in flight when the server ends."""

PAGE = {
    "/": ("serving_page.html", "text/html"),
    "/theme.css": ("theme.css", "text/css"),
    "/page.css": ("serving_page.css", "text/css"),
    "/page.js": ("serving_page.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def application(service: Service, model: str, hosts: Sequence[str] = ("*",), origins: Sequence[str] = ()) -> Any:
    """The ASGI application.

    Args:
        service: who answers.
        model: what the networks are called in /health.
        hosts: the names under which the server may be asked; `*`: any.
        origins: the sites, beside the server's own, whose pages may send pictures and read the answers; `*`: any.
    """
    from starlette.applications import Starlette
    from starlette.datastructures import Headers
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.cors import CORSMiddleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
    from starlette.routing import Route

    class Last(Response):
        """An answer before the end of a body. A little more of it is taken and thrown away, as most clients listen only
        once they have sent all, and would find the connection broken."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self.body, "more_body": True})
            more, size = True, 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    while more and size < 2 * service.max_bytes:
                        part = await receive()
                        more, size = part.get("more_body", False), size + len(part.get("body", b""))
            await send({"type": "http.response.body"})

    class Guard(TrustedHostMiddleware):
        """Refuses names that are not the server's and, before their body is read, pictures that another site's page
        made a browser send."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            headers = Headers(scope=scope)
            if scope["method"] not in ("GET", "HEAD", "OPTIONS") and _is_foreign(headers, origins):
                error = RefusedError(403, "pages of other sites may not send pictures here; --allow-origin lists those "
                                          "that may.", CLOSE)  # fmt: skip
                await (await refuse(Request(scope), error))(scope, receive, send)
            elif "host" not in headers and scope["path"] == "/health":  # HTTP/1.0, as load balancers ask
                await self.app(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)

    def plain(text: str, status: int = 200, headers: Mapping[str, str] = HEADERS) -> Response:
        return (Last if "Connection" in headers else Response)(text, status, headers, "application/json")

    async def predict(request: Request) -> Response:
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            raise RefusedError(415, "a form was sent; send the bytes of the picture itself as the body, as `curl "
                                    "--data-binary @picture.jpg` does.", CLOSE)  # fmt: skip
        if int(request.headers.get("content-length", 0)) > service.max_bytes:
            raise service.too_large()
        client = request.client.host if request.client else ""
        return plain(await service.answer(request.stream(), client, request.is_disconnected))

    async def health(request: Request) -> Response:
        return plain(about)

    def file(path: str, name: str, kind: str) -> Route:
        content = Path(__file__).with_name(name).read_bytes()

        async def answer(request: Request) -> Response:
            return Response(content, headers=HEADERS, media_type=kind)

        return Route(path, answer)

    async def refuse(request: Request, error: Exception) -> Response:
        sentence, status, headers = str(error), 400, {}
        if isinstance(error, RefusedError):
            status, headers = error.status, error.headers
        elif isinstance(error, HTTPException):
            status, headers = error.status_code, CLOSE | dict(error.headers or {})
            sentence = (f"{request.method} {request.url.path}: there is no such thing here; POST the bytes of a "
                        "picture to /predict, or open / in a browser.")  # fmt: skip
        elif not isinstance(error, InputError | ClientDisconnect):
            status, sentence = 500, "the server failed at this picture; what it printed tells why."
        return plain(json.dumps({"error": sentence}), status, HEADERS | headers)

    classifier = service.classifier
    about = json.dumps({"model": model, "classes": classifier.classes, "seeds": classifier.seeds,
                        "calibrated": classifier.calibrated, "max_bytes": service.max_bytes,
                        "max_pixels": service.max_pixels})  # fmt: skip
    routes = [Route("/predict", predict, methods=["POST"]), Route("/health", health)]
    routes += [file(path, *of) for path, of in PAGE.items()]
    guards = [Middleware(Guard, allowed_hosts=[*hosts], www_redirect=False)]
    if origins:
        guards += [Middleware(CORSMiddleware, allow_origins=[*origins], allow_methods=["GET", "POST"],
                              expose_headers=["Retry-After"])]  # fmt: skip
    refused = (InputError, RefusedError, HTTPException, ClientDisconnect, Exception)
    return Starlette(routes=routes, middleware=guards, exception_handlers=dict.fromkeys(refused, refuse))


def _is_foreign(headers: Mapping[str, str], origins: Sequence[str]) -> bool:
    """Whether a browser says that a page of another site asks; other programs do not send these headers."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None and ("*" in origins or origin.lower() in origins):
        return False
    if site is not None:  # browsers omit it towards http:// addresses of other machines
        return site not in ("same-origin", "none")
    return origin is not None and origin.lower().partition("://")[2] != headers.get("host", "").lower()


def server(app: Any) -> Any:
    """The server of an application; `run` it with the sockets that it is to listen on."""
    import uvicorn

    from hillstart.connections import IDLE_SECONDS, Connection, Server, most_connections

    return Server(uvicorn.Config(
        app, http=Connection, lifespan="off", ws="none", log_config=None, log_level="error", access_log=False,
        server_header=False, proxy_headers=False, timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=END_SECONDS,
        backlog=max(1, most_connections() // 8),  # asyncio accepts so many before it closes the first of them
    ))  # fmt: skip


# ---------------------------------------------------------------- the command


def main() -> None:
    """`hillstart-serve` and `scripts/serve.py`.

    Exit code 2 where the options or the model cannot be used, 130 after Ctrl-C, 143 after SIGTERM.
    """
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        if not all(map(find_spec, ("starlette", "uvicorn"))):
            raise InputError("a server needs two more packages: pip install 'hillstart[serve]'.")
        classifier = load(options.model, options.device)
        listening = _listen(options.host, options.port)
    except InputError as error:
        end(error, 2)
    torch.set_num_threads(1)  # the other cores decode: a product shared with them would wait for the slowest
    from hillstart.connections import most_connections

    # Fewer than there are connections, so that some of these can always be closed for others.
    waiting = min(WAITING, max(1, most_connections() * 3 // 4))
    service = Service(classifier, options.max_bytes, options.max_pixels, options.unsure_below, waiting)
    address, port = listening.getsockname()[:2]
    local = ipaddress.ip_address(address).is_loopback
    # By another name a web page that the browser was tricked into calling local would ask (DNS rebinding).
    hosts = ["localhost", "127.0.0.1", "::1", "[::1]", options.host] if local else ["*"]
    url = f"http://[{options.host}]:{port}" if ":" in options.host else f"http://{options.host}:{port}"
    names, more = classifier.classes[:10], len(classifier.classes) - 10
    kinds = visible(", ".join([*names, f"{more} more"] if more > 0 else names))
    print(f"{url} tells {kinds} by the networks of {visible(options.model)}; Ctrl-C ends it.", flush=True)
    if not local:
        print("hillstart: everyone who can reach this machine can use it.", file=sys.stderr)
    server(application(service, options.model, hosts, options.allow_origin)).run([listening])


def _leave(number: int, frame: object) -> None:
    """End with the exit code of a signal. The running server calls this too, once it has answered."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # a second one would interrupt the end with a traceback
    sys.exit(128 + number)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (")[0]
        raise InputError(
            f"{host}, port {port}: cannot be listened on ({reason}); give another --host or --port, 0 for any free one."
        ) from error


def _origin(text: str) -> str:
    if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^\s/?#@]+", found := text.lower().removesuffix("/")):
        raise ArgumentTypeError(f"{text!r} is not an origin; give one as https://example.org, or *")
    return found


def _options() -> Namespace:
    parser = ArgumentParser(description="Answer to pictures over HTTP: a page at /, for programs POST /predict.")
    parser.add_argument("model", metavar="MODEL", help="a run's folder, its network.safetensors, or a .ckpt")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s, for this machine)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    what = "a site whose pages may send pictures too, such as https://example.org, or * for any; can be repeated"
    parser.add_argument("--allow-origin", metavar="ORIGIN", type=_origin, action="append", default=[], help=what)
    numbers: list[tuple[str, type, float, float, float, str]] = [
        ("port", int, 0, 65535, 8000, "0 for any that is free"),
        ("max-bytes", int, 1, 1 << 30, MAX_BYTES, "the largest file that is read"),
        ("max-pixels", int, 1, 1 << 30, MAX_PIXELS, "the largest picture that is decoded"),
        ("unsure-below", float, 0, 1, UNSURE_BELOW, "the share of the starts below which an answer is called unsure"),
    ]
    for name, kind, _, _, default, what in numbers:
        parser.add_argument(f"--{name}", type=kind, default=default, metavar="NUMBER", help=f"{what} (%(default)s)")
    options = parser.parse_args()
    for name, _, low, high, _, _ in numbers:
        if not low <= (value := vars(options)[name.replace("-", "_")]) <= high:
            parser.error(f"argument --{name}: {value} is not a number from {low} to {high}")
    return options
