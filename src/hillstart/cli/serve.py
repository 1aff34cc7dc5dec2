"""Classify pictures over HTTP: `hillstart-serve` and `scripts/serve.py`."""

import ipaddress
import re
import signal
import socket
import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from dataclasses import replace
from importlib.util import find_spec

import torch

from hillstart.cli.predict import number
from hillstart.inference.loading import load
from hillstart.inference.voting import UNSURE_BELOW
from hillstart.serve.batching import MAX_BYTES, MAX_PIXELS, WAITING, Service
from hillstart.system.console import end, visible
from hillstart.system.errors import InputError

EPILOG = """\
A picture is sent in any of these forms; the answer is JSON:

  curl --data-binary @photo.jpg http://localhost:8000/predict
  curl -F file=@photo.jpg http://localhost:8000/predict
  curl -H 'Content-Type: application/json' -d '{"image": "BASE64 or data URL"}' http://localhost:8000/predict
"""


def parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Classify pictures over HTTP: a page at /, POST /predict for programs, /openapi.json describes it.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a run's folder, its network.safetensors, or a .ckpt")
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; 0.0.0.0 for other machines too (%(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    what = "a site whose pages may send pictures too, such as https://example.org, or * for any; can be repeated (none)"
    parser.add_argument("--allow-origin", metavar="ORIGIN", type=_origin, action="append", default=[], help=what)
    what = (
        "another name to answer to, such as lions.example.org, *.example.org, or * for any; can be repeated "
        "(localhost and the address; any if other machines are listened to and none is named)"
    )
    parser.add_argument("--allow-host", metavar="NAME", type=_host, action="append", default=[], help=what)
    parser.add_argument("--invert", action="store_true", help="answer for the negative of each picture, as predict")
    numbers = [
        ("port", int, 0, 65535, 8000, "0 for any that is free"),
        ("max-bytes", int, 1, 1 << 30, MAX_BYTES, "the largest file that is read"),
        ("max-pixels", int, 1, 1 << 30, MAX_PIXELS, "the largest picture that is decoded"),
        ("unsure-below", float, 0, 1, UNSURE_BELOW, "the share of the starts below which an answer is called unsure"),
    ]
    for name, kind, low, high, default, what in numbers:
        form, what = number(kind, low, high), f"{what} (%(default)s)"
        parser.add_argument(f"--{name}", type=form, default=default, metavar="NUMBER", help=what)
    return parser


def _origin(text: str) -> str:
    if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^\s/?#@]+", found := text.lower().removesuffix("/")):
        raise ArgumentTypeError(f"{text!r} is not an origin; give one as https://example.org, or *")
    return found


def _host(text: str) -> str:
    if not re.fullmatch(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]", found := text.lower()):
        raise ArgumentTypeError(
            f"{text!r} is not the name of a host; give one as lions.example.org, *.example.org or *"
        )
    return found


def main() -> None:
    """Exit code 2 if the options or the model cannot be used, 130 after Ctrl-C, 143 after SIGTERM."""
    options = parser().parse_args()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _leave)
    try:
        if not all(map(find_spec, ("starlette", "uvicorn", "multipart"))):
            raise InputError("a server needs more packages: pip install 'hillstart[serve]'.")
        classifier = replace(load(options.model, options.device), invert=options.invert)
        _ = classifier.pictures  # refuses networks that learned from a table
        listening = _listen(options.host, options.port)
    except InputError as error:
        end(error, 2)
    from hillstart.serve.app import application, server  # these import the packages that were checked above
    from hillstart.serve.connections import most_connections

    torch.set_num_threads(1)  # the other cores decode; a product shared with them would wait for the slowest
    # Fewer than the connections, so that an idle one can always be closed in favour of a new one.
    waiting = min(WAITING, max(1, most_connections() * 3 // 4))
    service = Service(classifier, options.max_bytes, options.max_pixels, options.unsure_below, waiting)
    address, port = listening.getsockname()[:2]
    local = ipaddress.ip_address(address).is_loopback
    # Other names are refused: a web page could ask through a name that resolves to this machine (DNS rebinding).
    named = local or options.allow_host
    hosts = ["localhost", "127.0.0.1", "::1", "[::1]", options.host, *options.allow_host] if named else ["*"]
    url = f"http://[{options.host}]:{port}" if ":" in options.host else f"http://{options.host}:{port}"
    more = [f"{len(classifier.classes) - 10} more"] if len(classifier.classes) > 10 else []
    classes = visible(", ".join([*classifier.classes[:10], *more]))
    print(f"{url} classifies pictures by {visible(options.model)} as {classes}; Ctrl-C ends it.", flush=True)
    if not local:
        print("hillstart: everyone who can reach this machine can use it.", file=sys.stderr)
    server(application(service, options.model, hosts, options.allow_origin)).run([listening])


def _leave(signal_number: int, frame: object) -> None:
    """Exit with the code of a signal. The running server calls this too, after it has answered."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # a second one would interrupt the end with a traceback
    sys.exit(128 + signal_number)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (")[0]
        raise InputError(
            f"{host}, port {port}: cannot listen ({reason}); give another --host or --port, 0 for any free one."
        ) from error
