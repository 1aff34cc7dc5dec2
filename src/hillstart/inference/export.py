"""Export of networks as one ONNX or torch program from pixels to probabilities; `spreadsheet` writes tables.

A program does all that follows the decoding of a picture: its centre square, the resize, normalisation, all starts,
their vote, its temperature. The file is read back and compared with hillstart before it takes its final name, so that
every exported file is correct.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from hillstart.inference import spreadsheet
from hillstart.inference.classifier import Classifier
from hillstart.inference.voting import agreement, log_outputs, probabilities, vote
from hillstart.network import Network
from hillstart.system.errors import InputError
from hillstart.system.files import replacing
from hillstart.system.machine import versions

TOLERANCE, MOST = 1e-5, 1e-3
"""Allowed difference from hillstart's probabilities, and its upper limit where rounding alone exceeds it."""

# The opset of torch's own translations, whatever its default: nothing is converted, and older runtimes read it.
OPSET = 18
MAX_ONNX_BYTES = 2_000_000_000  # of weights; protobuf holds no more in one file
INPUT, OUTPUTS = "pixels", ["probabilities", "agreement"]
DYNAMIC = {0: "N", 2: "H", 3: "W"}  # axes of the input that may have any length


def fit(pixels: UInt8[Tensor, "N C H W"], size: int) -> Float[Tensor, "N C size size"]:
    """Cut pictures to their centre square and resize them as Pillow's `ImageOps.fit` does with BICUBIC, in grey levels.

    Each pass is a matrix product: engines differ in their own filters, and none of these takes a square that begins
    between two pixels, as that of an odd margin does. Rounding may differ by a level; a picture of this size passes
    unchanged. Pillow 13 resizes the height of a tall picture first (a rule found by trying), which hard edges show.
    """
    H, W = torch.scalar_tensor(pixels.shape[2]), torch.scalar_tensor(pixels.shape[3])
    side, x = torch.minimum(H, W), pixels.to(torch.float32)
    rows = _taps(pixels.shape[2], (H - side) / 2, side, size)
    columns = _taps(pixels.shape[3], (W - side) / 2, side, size).T
    is_tall = H.gt(size) & (H + size > 2 * W)
    return torch.where(is_tall, _levels(_levels(rows @ x) @ columns), _levels(rows @ _levels(x @ columns)))


def _taps(n: int | torch.SymInt, begin: Tensor, side: Tensor, size: int) -> Float[Tensor, "size n"]:
    """The weight of each of n pixels in each of `size` that cover the interval of `side` pixels from `begin` on.

    The cubic convolution of Keys 1981 with a = -1/2, as wide as a new pixel where that is larger than an old one.
    """
    scale = side / size
    centres = begin + (torch.arange(size) + 0.5) * scale
    x = ((torch.arange(n) + 0.5 - centres.unsqueeze(1)) / scale.clamp_min(1.0)).abs()
    outer = torch.where(x < 2, ((2.5 - 0.5 * x) * x - 4) * x + 2, torch.zeros_like(x))
    weights = torch.where(x < 1, (1.5 * x - 2.5) * x * x + 1, outer)
    return weights / weights.sum(1, keepdim=True)


def _levels(x: Tensor) -> Tensor:
    return (x + 0.5).floor().clamp(0, 255)


class Answering(nn.Module):
    """`Classifier.answer` as a module, for decoded pictures of any size."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self._network, self._preprocessing = classifier.network, classifier.pictures
        self._temperature = classifier.temperatures.vote
        for l, (w, b) in enumerate(zip(self._network.w, self._network.b, strict=True)):
            self.register_buffer(f"w{l}", w if l else w.transpose(0, 1))  # in its memory layout: torch saves no views
            self.register_buffer(f"b{l}", b)

    def forward(self, pixels: UInt8[Tensor, "N C H W"]) -> tuple[Float[Tensor, "N n_out"], Float[Tensor, " N"]]:
        """The probabilities of all classes, and the share of the starts whose own label is that of the vote."""
        w, b = ([self.get_buffer(f"{kind}{l}") for l in range(len(self._network.w))] for kind in "wb")
        network = Network([w[0].transpose(0, 1), *w[1:]], b, self._network.activation, self._network.cost)
        inputs = self._preprocessing.normalise(fit(pixels, self._preprocessing.size))
        outputs = network.forward(inputs)[-1]
        return probabilities(vote(outputs), self._temperature), agreement(outputs)


def trace(classifier: Classifier) -> ExportedProgram:
    """`Answering` as a program of tensor operations, for any number of pictures of one size."""
    answering, p = Answering(classifier), classifier.pictures
    sample = torch.zeros(2, p.channels, p.size + 3, p.size + 5, dtype=torch.uint8)  # dimensions are told apart by size
    shapes = {axis: Dim(name, min=1) for axis, name in DYNAMIC.items()}
    with torch.no_grad():
        answering(sample)  # fills the cache of `normalise`: while tracing it would store fake tensors
        program = torch.export.export(answering, (sample,), dynamic_shapes=(shapes,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    program.constants.update({name: t.clone() for name, t in program.constants.items()})  # torch saves no views
    return program


def describe(classifier: Classifier) -> dict[str, str]:
    """Metadata for the user of a program, as text and JSON."""
    p = classifier.pictures
    return {
        "classes": json.dumps(classifier.classes),
        "preprocessing": json.dumps(p.as_dict()),
        "seeds": json.dumps(classifier.seeds),
        "calibrated": json.dumps(classifier.calibrated),
        "hillstart": versions()["hillstart"],
        "input": f"{INPUT}: uint8 (N, {p.channels}, H, W), {spreadsheet.decoded(classifier)}; within the program they "
        f"are {spreadsheet.resized(classifier)}, and normalised",
        "outputs": f"{OUTPUTS[0]}: float32 (N, {len(classifier.classes)}), of each class; {OUTPUTS[1]}: float32 (N), "
        "the share of the networks whose own label is the most likely class",
    }


def compare(answer: Callable[[Tensor], Sequence[Tensor]], classifier: Classifier) -> str:
    """Compare a program with hillstart, on noise, a black and a white picture, in batches of several sizes.

    The probabilities may differ by `TOLERANCE`, or by 4 times as much as hillstart's own answer changes when the last
    digits of its weights change, up to `MOST`: steep networks are no more exact. The agreement is compared where no
    label depends on such a digit. Returns how close the program is, in words.

    Raises:
        InputError: they disagree.
    """
    p, network = classifier.pictures, classifier.network
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (66, p.channels, p.size, p.size), generator=g, dtype=torch.uint8)
    pixels[0], pixels[1] = 0, 255
    expected, agreed = _answers(classifier, pixels)
    outputs = classifier.outputs(pixels)
    first, second = log_outputs(torch.cat([outputs, vote(outputs).unsqueeze(0)])).topk(2, -1).values.unbind(-1)
    clear = (first - second > 0.01).all(0)
    found, shares = (torch.cat(parts) for parts in zip(*map(answer, pixels.split([1, 7, 58])), strict=True))
    off, allowed = float((found - expected).abs().max()), TOLERANCE
    for _ in range(4 if off > TOLERANCE else 0):
        w = [w * (1 + (torch.rand(w.shape, generator=g) - 0.5) * 2**-20) for w in network.w]
        nearby = replace(classifier, network=Network(w, network.b, network.activation, network.cost))
        changed = 4 * float((_answers(nearby, pixels)[0] - expected).abs().max())
        allowed = min(MOST, max(allowed, changed))
    if not off <= allowed or not torch.allclose(shares[clear], agreed[clear]):  # `not <=` holds for nan too
        raise InputError(
            f"the file written disagrees with hillstart (probabilities up to {off:.2g} apart, {allowed:.2g} is "
            "allowed) and was removed; take another --to."
        )
    return f"{len(pixels)} pictures (noise, black, white), where its probabilities are within {off:.1g} of hillstart's"


def _answers(classifier: Classifier, pixels: Tensor) -> tuple[Tensor, Tensor]:
    found = list(classifier.answer(pixels))
    table = torch.tensor([[answer.probabilities[name] for name in classifier.classes] for answer in found])
    return table, torch.tensor([answer.agreement for answer in found])


# ---------------------------------------------------------------- the forms; each returns how it was checked


def to_onnx(classifier: Classifier, path: Path) -> str:
    """One ONNX file.

    Raises:
        InputError: a package is missing, the weights are too many for one file, or it disagrees with hillstart.
    """
    try:
        import onnx
        import onnxruntime  # type: ignore[import-untyped]
        from onnxscript import opset18 as op
    except ImportError as error:
        raise InputError(f"--to onnx: {error}; it needs what pip install 'hillstart[export]' installs.") from error
    if sum(4 * t.numel() for t in classifier.network.parameters) > MAX_ONNX_BYTES:
        raise InputError("--to onnx: the weights are more than the 2 GB of one file; give --start SEED or --to torch.")

    def sigmoid(z: Any) -> Any:
        # onnxruntime's own Sigmoid is 0 from z = -18 on, but a temperature brings out the ratios of small outputs.
        return op.Reciprocal(op.Add(op.Exp(op.Neg(z)), op.Constant(value_float=1.0)))

    made = torch.onnx.export(
        trace(classifier),
        input_names=[INPUT],
        output_names=OUTPUTS,
        dynamic_shapes={INPUT: DYNAMIC},
        verbose=False,
        opset_version=OPSET,
        custom_translation_table={torch.ops.aten.sigmoid.default: sigmoid},
    )
    assert made is not None  # the old exporter returned None
    for part in (made.model.graph, *made.model.graph, *made.model.graph.inputs, *made.model.graph.outputs):
        part.metadata_props.clear()  # the exporter's remarks, longer than the program
    made.model.metadata_props.update(describe(classifier))
    made.model.doc_string = describe(classifier)["input"]
    made.save(path, external_data=False)
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    compared = compare(lambda x: [torch.from_numpy(a) for a in session.run(OUTPUTS, {INPUT: x.numpy()})], classifier)
    return f"opset {OPSET}; by onnx.checker, and by onnxruntime {onnxruntime.__version__} on {compared}"


def to_torch(classifier: Classifier, path: Path) -> str:
    """One file for `torch.export.load`. Raises InputError where it disagrees with hillstart."""
    with path.open("wb") as file:
        torch.export.save(trace(classifier), file, extra_files=describe(classifier))
    with path.open("rb") as file:
        program = torch.export.load(file).module()
    return f"by torch.export.load, on {compare(program, classifier)}"


# Each form: the suffix of its file, the context manager that makes it atomic, the function that writes it.
FORMS: dict[str, tuple[str, Callable[[Path], AbstractContextManager[Path]], Callable[[Classifier, Path], str]]] = {
    "onnx": (".onnx", replacing, to_onnx),
    "torch": (".pt2", replacing, to_torch),
    "csv": ("-csv", spreadsheet.replacing_folder, spreadsheet.write),
}
