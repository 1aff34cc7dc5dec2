"""Evaluate a finished network on labelled pictures or rows: `hillstart-evaluate` and `scripts/evaluate.py`."""

import csv
import json
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from hillstart.cli.predict import add_model, loaded
from hillstart.data.audit import UNREAD
from hillstart.data.layout import Layout, read_labelled
from hillstart.data.preprocessing import Standardisation
from hillstart.data.table import Row, read_table
from hillstart.inference.classifier import Classifier
from hillstart.inference.evaluation import evaluated
from hillstart.inference.voting import agreement, probabilities, vote
from hillstart.system.console import Lines, end, visible
from hillstart.system.errors import InputError
from hillstart.system.files import replacing
from hillstart.system.statistics import Z_95, accuracy_interval


def parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="How good is a network on labelled pictures or rows? Accuracy with its 95 % interval, also by "
        "class; the baseline of always giving the most frequent class; confusion matrix, cost and calibration."
    )
    add_model(parser)
    what = "FOLDER/CLASS/... as data.root has them, or a csv file"
    parser.add_argument("folder", metavar="FOLDER", type=Path, help=what)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    what = "write a line for each picture or row to this file, too"
    parser.add_argument("--csv", metavar="FILE", type=Path, help=what)
    return parser


def main() -> None:
    """Exit code 1 if a picture or a row cannot be used, 2 if the options, the model or the folder cannot."""
    options = parser().parse_args()
    try:
        complete = _evaluate(loaded(options), options)
    except InputError as error:
        end(error, 2)
    sys.exit(0 if complete else 1)


def _evaluate(classifier: Classifier, options: Namespace) -> bool:
    """Evaluate; return whether every picture or row could be used."""
    lines, classes = Lines(), classifier.classes
    if isinstance(classifier.preprocessing, Standardisation):
        examples, missing, unknown = _rows(classifier.preprocessing, classes, options.folder, lines.note)
    else:
        examples, missing, unknown = _pictures(classes, options.folder, lines.note)
    rows: list[list[Any]] = []
    votes, labels, faults = [torch.empty(0, len(classes))], list[int](), 0
    labelled = iter(examples)
    lines.total = len(examples)
    with lines:
        for batch, _, outputs in classifier.outputs_each(source for source, _ in examples):
            m = vote(outputs).cpu()
            ordered, ranking = m.sort(descending=True, stable=True)  # as a prediction does, to the last bit
            p = torch.empty_like(m).scatter(-1, ranking, probabilities(ordered, classifier.temperatures.vote))
            columns = (ranking[:, 0], p, agreement(outputs))
            answers = zip(*(column.tolist() for column in columns), strict=True)
            for _, error in batch:
                source, name = next(labelled)
                lines.advance()
                if error:
                    lines.note(str(error))
                    faults += 1
                    continue
                label, shares, agreed = next(answers)
                labels.append(classes.index(name))
                rows.append([source, name, classes[label], *(round(q, 6) for q in shares), round(agreed, 6)])
            votes.append(m)
    noun = classifier.preprocessing.noun
    if not rows:
        raise InputError(f"{options.folder}: holds no usable {noun} of a class that the network knows; give another.")
    found = evaluated(
        torch.cat(votes), torch.tensor(labels), classes, classifier.network.cost, classifier.temperatures.vote
    )
    about = {
        "model": options.model,
        "folder": str(options.folder),
        "seeds": list(classifier.seeds),
        "classes": list(classes),
        "missing_classes": missing,
        "unknown_classes": unknown,
        "unusable": faults,
        "cost_kind": classifier.network.cost,
        "calibrated": classifier.calibrated,
    }
    if options.json:
        print(json.dumps(about | found))  # in ASCII, so that any file name survives any pipe
    else:
        for line in _table(about | found, noun):
            lines.show(line)
    if options.csv:  # last: if it cannot be written, the figures have been printed
        headings = [
            "file",
            "true_label",
            "predicted_label",
            *(f"probability of {name}" for name in classes),
            "agreement",
        ]
        with (
            replacing(options.csv, sync=False) as new,
            new.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            csv.writer(file).writerows([headings, *rows])
    return not faults


Labelled = tuple[list[tuple[Path | Row, str]], list[str], list[str]]
"""Pictures or rows with their labels; the classes of the network that none has; the labels that it does not know."""


def _pictures(classes: Sequence[str], folder: Path, note: Callable[[str], None]) -> Labelled:
    layout = read_labelled(folder, classes, _refuse)
    missing = [name for name in classes if name not in layout.classes]
    unknown = [finding.paths[0].name for finding in layout.skipped if finding.kind == "no class"]
    for sentence in _notes(layout, missing, unknown):
        note(sentence)
    return [(picture.path, picture.label) for picture in layout.pictures], missing, unknown


def _rows(inputs: Standardisation, classes: Sequence[str], path: Path, note: Callable[[str], None]) -> Labelled:
    table = read_table(path)
    column = table.find_label(inputs.label or None)
    examples = list(zip(table.rows(inputs), table.labels(column), strict=True))
    counts = Counter(label for _, label in examples)
    missing, unknown = [name for name in classes if name not in counts], sorted(set(counts) - set(classes))
    if unknown:
        left = f"{sum(counts[name] for name in unknown)} rows whose label is no class of the network"
        note(f"{path}: left out {left}: {', '.join(unknown):.200}.")
    if missing:
        note(f"{path}: has no row of {', '.join(missing)}; how often these are recognised is not known.")
    return [(row, label) for row, label in examples if label in classes], missing, unknown


def _refuse(path: Path, wrong: str) -> NoReturn:
    raise InputError(f"{path}: {wrong}")


def _notes(layout: Layout, missing: Sequence[str], unknown: Sequence[str]) -> Iterator[str]:
    if unknown:
        what = "a folder that is" if len(unknown) == 1 else f"{len(unknown)} folders that are"
        yield f"{layout.root}: left out {what} no class of the network: {', '.join(unknown)}."
    if missing:
        yield f"{layout.root}: holds no folder for {', '.join(missing)}; how often these are recognised is not known."
    left = ("extension", *UNREAD)
    others = Counter(of.paths[0].suffix or "no suffix" for of in layout.skipped if of.kind in left)
    if others:
        kinds = ", ".join(f"{kind} {n}" for kind, n in others.most_common())
        yield f"{layout.root}: passed over what is not read as a picture ({kinds})."


# ---------------------------------------------------------------- for a reader


def _table(found: dict[str, Any], noun: str) -> Iterator[str]:
    """Lines that fit a narrow terminal, except the confusion matrix in a pipe."""
    starts, (low, high), most = len(found["seeds"]), found["interval"], found["majority"]
    who = f"vote of {starts} starts" if starts > 1 else f"start {found['seeds'][0]}"
    yield f"{who}, {found['pictures']} {noun}s of {found['folder']}"
    yield f"accuracy {found['accuracy']:.4f}, 95 % interval {low:.4f} to {high:.4f}"
    yield f"baseline {most['accuracy']:.4f}, by always answering {most['class']}"
    yield f"cost {found['cost']:.4f} ({found['cost_kind'].replace('_', ' ')})"
    of = found["calibration"]
    after, before = of["after"], of["before"]
    used, what = (after, f"with the temperature {of['temperature']:.2f}") if found["calibrated"] else (before, "")
    yield " ".join(["expected calibration error", f"{used['expected_calibration_error']:.4f}", what]).rstrip()
    if found["calibrated"]:
        yield f"  {before['expected_calibration_error']:.4f} without it"
    yield f"  up to {used['by_chance']:.4f} is chance with so many {noun}s"
    yield ""
    yield "accuracy      95 %        right/all  class"
    for k, (name, of_class) in enumerate(found["by_class"].items()):
        if n := of_class["pictures"]:
            low, high = accuracy_interval(of_class["accuracy"], n, Z_95)
            share = f"{found['confusion'][k][k]}/{n}"
            yield f" {of_class['accuracy']:.4f}   {low:.3f} to {high:.3f}  {share:>9}  {name}"
    yield ""
    yield from _confusion(found["confusion"], found["classes"])


def _confusion(counts: list[list[int]], classes: Sequence[str]) -> Iterator[str]:
    """The confusion matrix, or the list of its mistakes where the terminal is too narrow for it."""
    names = [visible(name) for name in classes]
    widths = [max(len(name), *(len(str(row[k])) for row in counts)) for k, name in enumerate(names)]
    first = max(map(len, names))
    if not sys.stdout.isatty() or first + sum(widths) + 2 * len(widths) <= shutil.get_terminal_size().columns:
        yield "rows: the true class; columns: the answer"
        table: list[tuple[str, Sequence[Any]]] = [("", names), *zip(names, counts, strict=True)]
        for head, cells in table:
            yield "  ".join([f"{head:{first}}", *(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True))])
        return
    wrong = [(n, a, b) for a, row in enumerate(counts) for b, n in enumerate(row) if n and a != b]
    yield "mistakes" if wrong else "no mistakes"
    for n, a, b in sorted(wrong, key=lambda cell: -cell[0]):
        yield f"{n:>6}  {names[a]} taken for {names[b]}"
