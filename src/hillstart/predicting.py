"""What is on these pictures? The command line of inference, which needs neither Lightning nor Hydra."""

import glob
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from hillstart.answers import Csv, Json, Table
from hillstart.errors import InputError
from hillstart.images import find_pictures
from hillstart.inference import Classifier, load
from hillstart.terminal import Lines, end
from hillstart.voting import UNSURE_BELOW


def main() -> None:
    """`hillstart-predict` and `scripts/predict.py`.

    Exit code 1 where a picture could not be used, 2 where the options or the model could not.
    """
    options = _parser().parse_args()
    torch.set_num_threads(1)  # decoding keeps all cores busy: threads within a product would wait for each other
    try:
        classifier = load(options.model, options.device)
        if options.start is not None:
            classifier = classifier.only(options.start)
    except InputError as error:
        end(error, 2)
    try:
        whole = _predict(classifier, options)
    except InputError as error:  # of the model; those of pictures are answers
        end(error, 2)
    sys.exit(0 if whole else 1)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(description="What is on these pictures? Their labels, how likely, by how many starts.")
    parser.add_argument("model", metavar="MODEL", help="a run's folder, its network.safetensors, or a .ckpt")
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+",
        help="files, folders (with all below them), patterns such as 'photos/**/*.jpg', or - for names on standard "
        "input, one a line",
    )  # fmt: skip
    voters = parser.add_mutually_exclusive_group()
    voters.add_argument("--vote", action="store_true", help="let all kept starts vote (the default)")
    voters.add_argument("--start", type=int, metavar="SEED", help="ask the start of this seed alone")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--csv", action="store_true", help="comma-separated, with a line of headings")
    parser.add_argument("--top", type=_whole, metavar="K", help="show the K most likely classes")
    parser.add_argument(
        "--unsure-below", type=_share, default=UNSURE_BELOW, metavar="SHARE",
        help="call an answer unsure when a smaller share of the starts gives it (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    return parser


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number, 1 or more")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return share


def _predict(classifier: Classifier, options: Namespace) -> bool:
    """Answer to all pictures; whether every one could be used."""
    lines, faults = Lines(), 0

    def complain(error: InputError) -> None:
        nonlocal faults
        faults += 1
        lines.note(str(error))

    paths: Iterable[str | Path] = _paths(options.images, complain, lines.note)
    if "-" not in options.images:  # whose end is not known before it comes
        paths = list(paths)
        lines.total = len(paths)
    form = Json if options.json else Csv if options.csv else Table
    shown = form(classifier, options.top)
    if shown.headings:
        lines.show(shown.headings)
    with lines:
        for answer in classifier.predict_each(paths, options.unsure_below):
            if isinstance(answer, InputError):
                complain(answer)
            else:
                lines.show(shown.line(answer))
            lines.advance()
    return not faults


# ---------------------------------------------------------------- which pictures


def _paths(
    arguments: Iterable[str], complain: Callable[[InputError], None], note: Callable[[str], None]
) -> Iterator[str | Path]:
    for argument in arguments:
        if argument == "-":
            for line in sys.stdin.buffer:
                if name := os.fsdecode(line.rstrip(b"\r\n")):
                    yield from _below(name, complain, note)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            found = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - a pattern may be absolute
            if not found:
                complain(InputError(f"{argument}: no file is called so; give a pattern that one matches."))
            for name in found:
                yield from _below(name, complain, note)
        else:
            yield from _below(argument, complain, note)


def _below(name: str, complain: Callable[[InputError], None], note: Callable[[str], None]) -> Iterator[str | Path]:
    """A file itself, of a folder the pictures in it."""
    if not Path(name).is_dir():
        yield name
        return
    try:
        pictures, others = find_pictures(name)
    except InputError as error:
        complain(error)
        return
    if others:
        kinds = Counter(path.suffix or "no suffix" for path in others).most_common()
        listed = ", ".join(f"{kind} {n}" for kind, n in kinds)
        are = "file that is not a picture" if len(others) == 1 else "files that are not pictures"
        note(f"{name}: passed over {len(others)} {are} ({listed})")
    if not pictures:
        complain(InputError(f"{name}: holds no pictures; give a folder with some, or the files themselves."))
    yield from pictures
