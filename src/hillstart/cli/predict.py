"""Classify pictures or rows of a table: `hillstart-predict` and `scripts/predict.py`."""

import csv
import glob
import io
import json
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hillstart.data.audit import UNREAD
from hillstart.data.images import find_pictures, skipped_as
from hillstart.data.preprocessing import Preprocessing, Standardisation
from hillstart.data.table import Row, read_table
from hillstart.inference.classifier import Classifier
from hillstart.inference.loading import load
from hillstart.inference.prediction import Prediction
from hillstart.inference.voting import UNSURE_BELOW
from hillstart.system.console import Lines, end, visible
from hillstart.system.errors import InputError


def parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="What is on these pictures, or which class has each row of these tables? The labels, how likely, "
        "by how many starts."
    )
    add_model(parser)
    what = (
        "files, folders (with all below them), patterns such as 'photos/**/*.jpg', or - for names on standard input, "
        "one a line; csv files if the networks learned from a table"
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help=what)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--csv", action="store_true", help="comma-separated, with a line of headings")
    parser.add_argument("--top", type=number(int, 1, 1 << 30), metavar="K", help="show the K most likely classes")
    what = "call an answer unsure when a smaller share of the starts gives it (default: %(default)s)"
    parser.add_argument("--unsure-below", type=number(float, 0, 1), default=UNSURE_BELOW, metavar="SHARE", help=what)
    return parser


def add_model(parser: ArgumentParser) -> None:
    """The arguments that say which networks answer."""
    parser.add_argument("model", metavar="MODEL", help="a run's folder, its network.safetensors, or a .ckpt")
    voters = parser.add_mutually_exclusive_group()
    voters.add_argument("--vote", action="store_true", help="let all kept starts vote (the default)")
    voters.add_argument("--start", type=int, metavar="SEED", help="ask the start of this seed alone")
    what = "take the negative of each picture, such as dark on white where the networks learned white on black"
    parser.add_argument("--invert", action="store_true", help=what)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")


def loaded(options: Namespace) -> Classifier:
    """The networks that `add_model` asks for; raises InputError."""
    torch.set_num_threads(1)  # decoding keeps all cores busy; threads of one product would wait for each other
    classifier = load(options.model, options.device)
    if options.invert and not isinstance(classifier.preprocessing, Preprocessing):
        raise InputError("--invert: the networks classify rows of a table, which have no negative; leave it out.")
    classifier = replace(classifier, invert=options.invert)
    return classifier if options.start is None else classifier.only(options.start)


def number(kind: type[float], low: float, high: float) -> Callable[[str], float]:
    """A type of an argument: a number from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ArgumentTypeError(f"{text!r} is not a {'whole ' if kind is int else ''}number from {low} to {high}")
        return value

    return parse


def main() -> None:
    """Exit code 1 if a picture or a row cannot be used, 2 if the options or the model cannot."""
    options = parser().parse_args()
    try:
        complete = _predict(loaded(options), options)
    except InputError as error:  # of the model; errors of pictures are counted by `_predict`
        end(error, 2)
    sys.exit(0 if complete else 1)


def _predict(classifier: Classifier, options: Namespace) -> bool:
    """Classify all pictures or rows; return whether every one could be used."""
    lines, faults, answered, inverted = Lines(), 0, 0, 0

    def complain(error: InputError) -> None:
        nonlocal faults
        faults += 1
        lines.note(str(error))

    sources: Iterable[str | Path | Row]
    if isinstance(classifier.preprocessing, Standardisation):
        sources = _rows(options.files, classifier.preprocessing, complain, lines.note)
    else:
        sources = _paths(options.files, complain, lines.note)
    if "-" not in options.files:  # standard input: the total is unknown
        sources = list(sources)
        lines.total = len(sources)
    form = Json if options.json else Csv if options.csv else Table
    shown = form(classifier, options.top)
    if shown.headings:
        lines.show(shown.headings)
    with lines:
        for answer in classifier.predict_each(sources, options.unsure_below):
            if isinstance(answer, InputError):
                complain(answer)
            else:
                lines.show(shown.line(answer))
                answered, inverted = answered + 1, inverted + answer.seems_inverted
            lines.advance()
    if 2 * inverted > answered:
        change = "leave out --invert" if options.invert else "--invert takes their negatives"
        many = f"{inverted} of {answered} pictures"
        lines.note(f"{many} are about as bright as negatives of the training pictures; if they are, {change}.")
    return not faults


# ---------------------------------------------------------------- which pictures or rows


def _rows(
    arguments: Iterable[str],
    inputs: Standardisation,
    complain: Callable[[InputError], None],
    note: Callable[[str], None],
) -> Iterator[Row]:
    """The rows of the csv files that are named."""
    for name in _names(arguments, complain):
        try:
            table = read_table(Path(name))
            rows = table.rows(inputs)
        except InputError as error:
            complain(error)
            continue
        if others := [column for column in table.columns if column not in (*inputs.columns, inputs.label)]:
            note(f"{name}: passed over {', '.join(others):.200}; the networks' inputs are {inputs}")
        yield from rows


def _paths(
    arguments: Iterable[str], complain: Callable[[InputError], None], note: Callable[[str], None]
) -> Iterator[str | Path]:
    """The files that are named, and all pictures below the folders that are named."""
    for name in _names(arguments, complain):
        if not Path(name).is_dir():
            yield name
            continue
        try:
            pictures, others = find_pictures(name)
        except InputError as error:
            complain(error)
            continue
        skipped = Counter(map(skipped_as, others))
        for kind, what in UNREAD.items():
            if skipped[kind]:
                complain(InputError(f"{name}: {skipped[kind]} {what}."))
        others = [path for path in others if skipped_as(path) not in UNREAD]
        if others:
            kinds = Counter(path.suffix or "no suffix" for path in others).most_common()
            listed = ", ".join(f"{kind} {n}" for kind, n in kinds)
            are = "file that is not a picture" if len(others) == 1 else "files that are not pictures"
            note(f"{name}: passed over {len(others)} {are} ({listed})")
        if not pictures and not skipped.keys() & UNREAD:
            complain(InputError(f"{name}: holds no pictures; give a folder with some, or the files themselves."))
        yield from pictures


def _names(arguments: Iterable[str], complain: Callable[[InputError], None]) -> Iterator[str]:
    for argument in arguments:
        if argument == "-":
            lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)
            yield from filter(None, lines)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            found = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - a pattern may be absolute
            if not found:
                complain(InputError(f"{argument}: no file matches; give another pattern."))
            yield from found
        else:
            yield argument


class Table:
    """Columns for a reader, with the `top` most likely classes (default 1); the name is last, as it may be long."""

    def __init__(self, classifier: Classifier, top: int | None = None):
        self._top, self._starts = min(top or 1, len(classifier.classes)), len(classifier.seeds)
        self._label = max(len("label"), *(len(visible(name)) for name in classifier.classes))
        self._agree = max(len("agree"), 1 + 2 * len(str(self._starts)))
        cells = "  ".join([f"{'label':{self._label}}  prob."] * self._top)
        self.headings = f"{cells}  {'agree':>{self._agree}}          {classifier.preprocessing.noun}"

    def line(self, answer: Prediction) -> str:
        ranked = list(answer.probabilities.items())[: self._top]
        cells = "  ".join(f"{visible(name):{self._label}}  {p:5.3f}" for name, p in ranked)
        agree = f"{round(answer.agreement * self._starts)}/{self._starts}"
        return f"{cells}  {agree:>{self._agree}}  {'unsure' if answer.unsure else '':6}  {visible(str(answer.path))}"


class Json:
    """One object a line, with the `top` most likely classes (default: all).

    In ASCII, so that any file name survives any pipe: `os.fsencode(path)` restores its bytes.
    """

    headings = ""

    def __init__(self, classifier: Classifier, top: int | None = None):
        self._top = top

    def line(self, answer: Prediction) -> str:
        ranked = list(answer.probabilities.items())[: self._top]
        fields: dict[str, Any] = {
            "path": answer.path,
            "label": answer.label,
            "probability": round(answer.probability, 6),
            "probabilities": {name: round(p, 6) for name, p in ranked},
            "agreement": round(answer.agreement, 6),
            "unsure": answer.unsure,
        }
        return json.dumps(fields if answer.calibrated else fields | {"calibrated": False})


class Csv:
    """A line for each picture or row, with the `top` most likely classes (default 1)."""

    def __init__(self, classifier: Classifier, top: int | None = None):
        self._top = min(top or 1, len(classifier.classes))
        more = [f"{what}_{k}" for k in range(2, self._top + 1) for what in ("label", "probability")]
        self.headings = _row(["path", "label", "probability", "agreement", "unsure", *more])

    def line(self, answer: Prediction) -> str:
        (label, p), *others = ((name, round(p, 6)) for name, p in list(answer.probabilities.items())[: self._top])
        agreement, unsure = round(answer.agreement, 6), "yes" if answer.unsure else "no"
        return _row([answer.path, label, p, agreement, unsure, *(cell for other in others for cell in other)])


def _row(cells: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)  # the default line end makes it quote every line break
    return text.getvalue().removesuffix("\r\n")
