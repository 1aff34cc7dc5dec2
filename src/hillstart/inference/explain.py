"""Why does the network say so? The way of one picture through one network, or the arithmetic of one of its nodes.

Node names are those of the report page: `hidden1.3` is the third node of the first hidden layer, `output.lion` or
`output.1` the first output. No Lightning and no Hydra.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import UInt8
from torch import Tensor

from hillstart.inference import arithmetic
from hillstart.inference.arithmetic import text, thousandths
from hillstart.inference.classifier import Classifier
from hillstart.inference.model_file import Model
from hillstart.inference.voting import probabilities
from hillstart.network import COSTS, Network
from hillstart.system.console import visible
from hillstart.system.errors import InputError

ACTIVE, CLASSES = 6, 5
"""How many of a layer's nodes, the most active, and of the classes, the most likely, are named."""


@dataclass(frozen=True)
class Way:
    """One picture on its way through one network, in float64; z and a in thousandths, as `arithmetic` shows them.

    Args:
        model: of one start.
        pixels: as `images.read_picture` makes them.
    """

    model: Model
    pixels: UInt8[Tensor, "C H W"]

    @cached_property
    def network(self) -> Network:
        given = self.model.network
        return Network([w.double() for w in given.w], [b.double() for b in given.b], given.activation, given.cost)

    @cached_property
    def exact(self) -> list[Tensor]:
        """a^0 to a^L."""
        a = self.network.forward(self.model.preprocessing.normalise(self.pixels.unsqueeze(0)).double())
        return [al.flatten() for al in a]

    @cached_property
    def z(self) -> list[list[int]]:
        """Of layer l at index l - 1."""
        inputs = [self.exact[0].view(1, -1), *(a.view(1, 1, -1) for a in self.exact[1:-1])]
        z = [self.network.weighted_input(l, a).flatten().tolist() for l, a in enumerate(inputs)]
        return [list(map(thousandths, of_layer)) for of_layer in z]

    @cached_property
    def a(self) -> list[list[int]]:
        """Of layer l at index l, the picture first."""
        if COSTS[self.network.cost].is_softmax:
            outputs = arithmetic.softmax(self.z[-1])[2]
        else:
            outputs = [arithmetic.activated("sigmoid", z) for z in self.z[-1]]
        hidden = [[arithmetic.activated(self.network.activation, z) for z in of_layer] for of_layer in self.z[:-1]]
        return [list(map(thousandths, self.exact[0].tolist())), *hidden, outputs]

    # ------------------------------------------------------------ names

    def layer(self, l: int) -> str:
        """l: 0 for the first layer after the picture."""
        return "output" if l == len(self.z) - 1 else f"hidden{l + 1}"

    def name(self, l: int, j: int) -> str:
        return f"{self.layer(l)}.{self.model.classes[j] if l == len(self.z) - 1 else j + 1}"

    def find(self, name: str) -> tuple[int, int]:
        """The layer and the place in it of a node called so.

        Raises:
            InputError: there is none.
        """
        layer, _, node = name.partition(".")
        layers = [self.layer(l) for l in range(len(self.z))]
        if layer not in layers:
            some = " or ".join(
                [f"{layers[0]}.1" if len(layers) > 1 else self.name(0, 0), self.name(len(self.z) - 1, 0)]
            )
            raise InputError(f"node {name}: there is no layer {layer}, only {', '.join(layers)}; give {some}.")
        l = layers.index(layer)
        if l == len(self.z) - 1 and node in self.model.classes:
            return l, self.model.classes.index(node)
        count = len(self.z[l])
        if node.isdecimal() and 1 <= int(node) <= count:
            return l, int(node) - 1
        classes = f", or the name of a class, such as {self.name(l, 0)}" if layer == "output" else ""
        wrong = f"{layer} has no node {node}" if node else f"{layer} is a layer"
        raise InputError(f"node {name}: {wrong}; give {layer}.1 to {layer}.{count}{classes}.")

    # ------------------------------------------------------------ lines

    def lines_of(self, l: int, j: int) -> list[str]:
        """The arithmetic of one node, as on the report page."""
        weights = list(map(thousandths, self.network.w[l][0, :, j].tolist()))
        bias, z = thousandths(float(self.network.b[l][0, j])), self.z[l][j]
        lines = arithmetic.sum_lines(self.a[l], weights, bias, z)
        if l == len(self.z) - 1 and COSTS[self.network.cost].is_softmax:
            return [*lines, *arithmetic.softmax_lines(self.z[l], j)]
        return [*lines, arithmetic.activation_line(self.network.activation if l < len(self.z) - 1 else "sigmoid", z)]

    def lines(self, classifier: Classifier) -> list[str]:
        """The most active nodes of each layer, and how sure the network is of the likeliest classes."""
        found = []
        for l, a in enumerate(self.a[1:]):
            most = sorted(range(len(a)), key=lambda j: -abs(self.exact[l + 1][j]))[:ACTIVE]
            nodes = "  ".join(f"{self.name(l, j)} {text(a[j])}" for j in most)
            found.append(
                f"{self.layer(l):9}{len(a):5} nodes, {'the most active' if len(most) < len(a) else 'all'}: {nodes}"
            )
        T = classifier.calibration.starts[0]
        p, k = probabilities(self.exact[-1], T).sort(descending=True, stable=True)
        sure = "  ".join(
            f"{self.model.classes[k]} {100 * p:.1f} %"
            for p, k in list(zip(p.tolist(), k.tolist(), strict=True))[:CLASSES]
        )
        return [*found, f"how sure{'' if classifier.calibrated else ' (not calibrated)'}: {sure}"]


def _show(way: Way, classifier: Classifier, image: str, place: tuple[int, int] | None) -> None:
    if place:
        lines: Sequence[str] = [f"{way.name(*place)}, for {image}:", *way.lines_of(*place)]
    else:
        example = way.name(0, max(range(len(way.a[1])), key=lambda j: abs(float(way.exact[1][j]))))
        which = f"start {classifier.seeds[0]}, a network of {' – '.join(map(str, way.network.sizes))} nodes"
        lines = [f"{image}, seen by {which}", *way.lines(classifier), f"the arithmetic of a node: --node {example}"]
    print("\n".join(map(visible, lines)))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(description="Why does the network say so? Its nodes for one picture, or one node's sum.")
    parser.add_argument("model", metavar="MODEL", help="a run's folder, its network.safetensors, or a .ckpt")
    parser.add_argument("image", metavar="IMAGE", help="the file of a picture")
    parser.add_argument("--node", metavar="NODE", help="write out one node, such as hidden1.3, output.lion or output.1")
    parser.add_argument("--start", type=int, metavar="SEED", help="the start of this seed (default: the best)")
    return parser
