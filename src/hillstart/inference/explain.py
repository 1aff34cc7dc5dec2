"""Explain a prediction: the activations of one picture or row in one network, or the arithmetic of one of its nodes.

Nodes are named as on the report page: `hidden1.3` is the third node of the first hidden layer, `output.lion` or
`output.1` the first output.
"""

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Real, UInt8
from torch import Tensor

from hillstart.inference import arithmetic
from hillstart.inference.arithmetic import text, thousandths
from hillstart.inference.classifier import Classifier
from hillstart.inference.voting import probabilities
from hillstart.network import COSTS, Network
from hillstart.system.errors import InputError

ACTIVE, CLASSES = 6, 5
"""The most active nodes of a layer, and the most likely classes, that are listed."""


@dataclass(frozen=True)
class ForwardPass:
    """One picture or row in one network, computed in float64; z and a in thousandths, as `arithmetic` shows them.

    Args:
        classifier: of one start.
        x: as `images.read_picture` or `table.read_row` makes it.
    """

    classifier: Classifier
    x: UInt8[Tensor, "C H W"] | Real[Tensor, " D"]

    @cached_property
    def network(self) -> Network:
        return self.classifier.network.map(Tensor.double)

    @cached_property
    def exact(self) -> list[Tensor]:
        """a^0 to a^L."""
        a = self.network.forward(self.classifier.preprocessing.normalise(self.x.unsqueeze(0)).double())
        return [al.flatten() for al in a]

    @cached_property
    def z(self) -> list[list[int]]:
        """z of layer l, at index l - 1."""
        inputs = [self.exact[0].view(1, -1), *(a.view(1, 1, -1) for a in self.exact[1:-1])]
        z = [self.network.weighted_input(l, a).flatten().tolist() for l, a in enumerate(inputs)]
        return [list(map(thousandths, of_layer)) for of_layer in z]

    @cached_property
    def a(self) -> list[list[int]]:
        """a of layer l, at index l; layer 0 is the inputs."""
        if COSTS[self.network.cost].is_softmax:
            outputs = arithmetic.softmax(self.z[-1])[2]
        else:
            outputs = [arithmetic.activated("sigmoid", z) for z in self.z[-1]]
        hidden = [[arithmetic.activated(self.network.activation, z) for z in of_layer] for of_layer in self.z[:-1]]
        return [list(map(thousandths, self.exact[0].tolist())), *hidden, outputs]

    # ------------------------------------------------------------ names

    def layer(self, l: int) -> str:
        """The name of a layer; l is 0 for the first one after the inputs."""
        return "output" if l == len(self.z) - 1 else f"hidden{l + 1}"

    def name(self, l: int, j: int) -> str:
        return self.classifier.node_name(l, j)

    def find(self, name: str) -> tuple[int, int]:
        """The layer and the index in it of the node with this name.

        Raises:
            InputError: there is no such node.
        """
        layer, _, node = name.partition(".")
        layers = [self.layer(l) for l in range(len(self.z))]
        if layer not in layers:
            example = self.name(len(self.z) - 1, 0)
            raise InputError(f"node {name}: there is no layer {layer}, only {', '.join(layers)}; give {example}.")
        l = layers.index(layer)
        if l == len(self.z) - 1 and node in self.classifier.classes:
            return l, self.classifier.classes.index(node)
        count = len(self.z[l])
        if node.isdecimal() and 1 <= int(node) <= count:
            return l, int(node) - 1
        classes = f", or the name of a class, such as {self.name(l, 0)}" if layer == "output" else ""
        wrong = f"{layer} has no node {node}" if node else f"{layer} is a layer, not a node"
        raise InputError(f"node {name}: {wrong}; give {layer}.1 to {layer}.{count}{classes}.")

    # ------------------------------------------------------------ lines

    def _weights(self, l: int, j: int) -> list[int]:
        return list(map(thousandths, self.network.w[l][0, :, j].tolist()))

    def sources(self, l: int, j: int) -> str:
        """Name the pixels, columns or nodes behind the products that `lines_of` writes out, in the same order."""
        order = arithmetic.written(self.a[l], self._weights(l, j))
        names = self.classifier.preprocessing.input_names if l == 0 else None
        return ", ".join(names[i] if names else self.name(l - 1, i) for i in order)

    def lines_of(self, l: int, j: int) -> list[str]:
        """The arithmetic of one node, as on the report page."""
        weights = self._weights(l, j)
        bias, z = thousandths(float(self.network.b[l][0, j])), self.z[l][j]
        lines = arithmetic.sum_lines(self.a[l], weights, bias, z)
        if l == len(self.z) - 1 and COSTS[self.network.cost].is_softmax:
            return [*lines, *arithmetic.softmax_lines(self.z[l], j)]
        return [*lines, arithmetic.activation_line(self.network.activation if l < len(self.z) - 1 else "sigmoid", z)]

    def lines(self) -> list[str]:
        """The most active nodes of each layer, and the probabilities of the most likely classes."""
        found = []
        for l, a in enumerate(self.a[1:]):
            most = sorted(range(len(a)), key=lambda j: -abs(self.exact[l + 1][j]))[:ACTIVE]
            nodes = "  ".join(f"{self.name(l, j)} {text(a[j])}" for j in most)
            which = "the most active" if len(most) < len(a) else "all"
            found.append(f"{self.layer(l):9}{len(a):5} nodes, {which}: {nodes}")
        p, ranking = probabilities(self.exact[-1], self.classifier.temperatures.starts[0]).sort(
            descending=True, stable=True
        )
        likely = zip(p.tolist()[:CLASSES], ranking.tolist()[:CLASSES], strict=True)
        sure = "  ".join(f"{self.classifier.classes[k]} {100 * q:.1f} %" for q, k in likely)
        return [*found, f"how sure{'' if self.classifier.calibrated else ' (not calibrated)'}: {sure}"]
