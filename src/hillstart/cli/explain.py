"""Explain one prediction: `hillstart-explain` and `scripts/explain.py`."""

from argparse import ArgumentParser
from pathlib import Path

from torch import Tensor

from hillstart.cli.predict import number
from hillstart.data.images import read_picture
from hillstart.data.preprocessing import Standardisation
from hillstart.data.table import read_row, read_table
from hillstart.inference.classifier import Classifier
from hillstart.inference.explain import ForwardPass
from hillstart.inference.loading import load
from hillstart.system.console import end, visible
from hillstart.system.errors import InputError


def parser() -> ArgumentParser:
    about = "Why does the network say so? Its nodes for one picture or row, or one node's sum."
    parser = ArgumentParser(description=about)
    parser.add_argument("model", metavar="MODEL", help="a run's folder, its network.safetensors, or a .ckpt")
    parser.add_argument("file", metavar="FILE", help="the file of a picture, or a csv file")
    parser.add_argument("--row", type=number(int, 1, 1 << 30), metavar="N", help="the row of the csv file, from 1")
    parser.add_argument("--node", metavar="NODE", help="write out one node, such as hidden1.3, output.lion or output.1")
    parser.add_argument("--start", type=int, metavar="SEED", help="the start of this seed (default: the best)")
    return parser


def _read(classifier: Classifier, path: str, n: int | None) -> tuple[str, Tensor]:
    """The name and the pixels of a picture, or the name and the numbers of row n of a csv file."""
    inputs = classifier.preprocessing
    if not isinstance(inputs, Standardisation):
        if n is not None:
            raise InputError("--row: the networks classify pictures, which have no rows to choose; leave it out.")
        return path, read_picture(path, inputs)
    rows = read_table(Path(path)).rows(inputs)
    if n is None and len(rows) > 1:
        raise InputError(f"{path}: has {len(rows)} rows; --row N takes one of them, such as --row 1.")
    if (n or 1) > len(rows):
        raise InputError(f"{path}: has no row {n}; the last is {len(rows)}.")
    row = rows[(n or 1) - 1]
    return str(row), read_row(row, inputs)


def main() -> None:
    """Exit code 1 if the picture or the row cannot be used, 2 if the options or the model cannot."""
    options = parser().parse_args()
    try:
        classifier = load(options.model)
        classifier = classifier.only(classifier.seeds[0] if options.start is None else options.start)
    except InputError as error:
        end(error, 2)
    try:
        what, x = _read(classifier, options.file, options.row)
    except InputError as error:
        end(error, 1)
    way = ForwardPass(classifier, x)
    try:
        if not all(a.isfinite().all() for a in way.exact):
            raise InputError("an activation is not a finite number; give a model file as a run wrote it.")
        node = way.find(options.node) if options.node is not None else None
    except InputError as error:
        end(error, 2)
    if node:
        lines = [f"{way.name(*node)}, for {what}:", *way.lines_of(*node)]
        scaled = ", standardised" if node[0] == 0 and isinstance(classifier.preprocessing, Standardisation) else ""
        lines.append(f"the products are those of {way.sources(*node)}{scaled}")
    else:
        example = way.name(0, max(range(len(way.a[1])), key=lambda j: abs(float(way.exact[1][j]))))
        which = f"start {classifier.seeds[0]}, a network of {' – '.join(map(str, way.network.sizes))} nodes"
        lines = [f"{what}, seen by {which}", *way.lines(), f"the arithmetic of a node: --node {example}"]
    print("\n".join(map(visible, lines)))
