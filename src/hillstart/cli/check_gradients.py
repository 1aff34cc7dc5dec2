"""Check the gradient by hand against autograd and finite differences: `scripts/check_gradients.py`."""

import sys
from argparse import ArgumentParser

import hydra
import torch

from hillstart.cli.mistakes import one_sentence
from hillstart.cli.words import readable
from hillstart.config.build import build_run_spec, composed_options
from hillstart.config.conf import conf_folder
from hillstart.data.batches import Sample
from hillstart.gradient_check import DIFFERENCE_TOLERANCE, TOLERANCE, check
from hillstart.network import Network
from hillstart.system.console import print_table


def parser() -> ArgumentParser:
    parser = ArgumentParser(description="The gradient by hand against autograd and finite differences, layer by layer.")
    parser.add_argument("options", nargs="*", metavar="key=value", help="as for training: network.hidden=[5,4] ...")
    return parser


def main() -> None:
    """Exit code 1 if the gradient is wrong."""
    options = parser().parse_args().options
    with one_sentence(), hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        spec = build_run_spec(composed_options(hydra.compose("train", ["starts=2", *readable(options)])))
    data, B = spec.data, 10
    x, y = next(Sample(data.train, len(data.classes), data.preprocessing, torch.device("cpu"), limit=B).batches())
    net = spec.begin(sorted({start.seed for start in spec.starts}))
    net = Network([w.double() for w in net.w], [b.double() for b in net.b], net.activation, net.cost)
    checks = check(net, x.double(), y.double(), spec.starts[0].hyperparameters.lmbda, len(data.train.y))
    title = f"network {net.sizes}, {net.activation}, {net.cost}: {net.starts} starts, {B} pictures, float64"
    rows = []
    for c in checks:
        errors = (c.largest_gradient, c.against_autograd, c.against_differences)
        rows.append([str(c.layer), c.parameter, *(f"{error:.1e}" for error in errors)])
    headings = ("layer", "", "largest gradient", "by hand - autograd", "by hand - differences")
    print_table(headings, rows, title, headings[2:3])
    print("Errors are the largest of a layer, relative to its largest gradient.")
    if not all(c.against_autograd < TOLERANCE and c.against_differences < DIFFERENCE_TOLERANCE for c in checks):
        sys.exit(
            f"hillstart: the gradient is wrong; autograd must agree to {TOLERANCE:g}, differences to "
            f"{DIFFERENCE_TOLERANCE:g}."
        )
