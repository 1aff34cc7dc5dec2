"""Explain one prediction: `hillstart-explain` and `scripts/explain.py`."""

from argparse import ArgumentParser

from hillstart.data.images import read_picture
from hillstart.inference.explain import ForwardPass
from hillstart.inference.loading import load
from hillstart.system.console import end, visible
from hillstart.system.errors import InputError


def parser() -> ArgumentParser:
    parser = ArgumentParser(description="Why does the network say so? Its nodes for one picture, or one node's sum.")
    parser.add_argument("model", metavar="MODEL", help="a run's folder, its network.safetensors, or a .ckpt")
    parser.add_argument("image", metavar="IMAGE", help="the file of a picture")
    parser.add_argument("--node", metavar="NODE", help="write out one node, such as hidden1.3, output.lion or output.1")
    parser.add_argument("--start", type=int, metavar="SEED", help="the start of this seed (default: the best)")
    return parser


def main() -> None:
    """Exit code 1 if the picture cannot be used, 2 if the options or the model cannot."""
    options = parser().parse_args()
    try:
        classifier = load(options.model)
        classifier = classifier.only(classifier.seeds[0] if options.start is None else options.start)
    except InputError as error:
        end(error, 2)
    try:
        pixels = read_picture(options.image, classifier.pictures)
    except InputError as error:
        end(error, 1)
    way = ForwardPass(classifier, pixels)
    try:
        if not all(a.isfinite().all() for a in way.exact):
            raise InputError("an activation is not a finite number; give a model file as a run wrote it.")
        node = way.find(options.node) if options.node is not None else None
    except InputError as error:
        end(error, 2)
    if node:
        lines = [f"{way.name(*node)}, for {options.image}:", *way.lines_of(*node)]
        lines.append(f"the products are those of {way.sources(*node)}")
    else:
        example = way.name(0, max(range(len(way.a[1])), key=lambda j: abs(float(way.exact[1][j]))))
        which = f"start {classifier.seeds[0]}, a network of {' – '.join(map(str, way.network.sizes))} nodes"
        lines = [f"{options.image}, seen by {which}", *way.lines(), f"the arithmetic of a node: --node {example}"]
    print("\n".join(map(visible, lines)))
