"""Export networks for other programs: `hillstart-export` and `scripts/export.py`."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from textwrap import indent

from hillstart.inference.export import FORMS
from hillstart.inference.loading import load
from hillstart.system.console import end, visible
from hillstart.system.errors import InputError
from hillstart.system.files import check_links, relative

LOAD_ONNX = """\
import onnxruntime

program = onnxruntime.InferenceSession("network.onnx")
about = program.get_modelmeta().custom_metadata_map
run = lambda pixels: program.run(["probabilities", "agreement"], {"pixels": pixels})
"""
LOAD_TORCH = """\
import torch

about = {"classes": ""}  # load fills in all of the metadata
program = torch.export.load("network.pt2", extra_files=about).module()
run = lambda pixels: program(torch.tensor(pixels))
"""
PREDICT = """\
import json, numpy
from PIL import Image, ImageOps

size, channels = (json.loads(about["preprocessing"])[key] for key in ("size", "channels"))
picture = Image.open("photo.jpg")
picture.draft(None, (2 * size, 2 * size))  # decodes a large JPEG at 1/2, 1/4 or 1/8, as predict.py does
picture = ImageOps.exif_transpose(picture).convert("L" if channels == 1 else "RGB")
pixels = numpy.atleast_3d(picture).transpose(2, 0, 1)[None]  # uint8 (1, channels, height, width)
probabilities, agreement = run(pixels)
print({name: float(p) for name, p in zip(json.loads(about["classes"]), probabilities[0])})
"""
EPILOG = f"""\
A program takes decoded pictures of any size and needs no hillstart. How to load an ONNX file in Python, after
pip install onnxruntime:

{indent(LOAD_ONNX, "  ")}
A torch file:

{indent(LOAD_TORCH, "  ")}
The answer of either to a picture, within 0.001 of predict.py's (pip install pillow):

{indent(PREDICT, "  ")}
The program cuts out the centre square and resizes it. Where Pillow does so first, by
picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC), the answer is predict.py's to the last digits.
Lay transparent pictures on the grey level "background" of the preprocessing before. Metadata of both formats: classes,
preprocessing, seeds and calibrated as JSON; hillstart (its version), input and outputs as text.
"""


def parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Take networks elsewhere: as one program from pixels to probabilities, or as tables.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a run's folder, its network.safetensors, or a .ckpt")
    what = "onnx: for ONNX Runtime and other engines; torch: for torch.export.load; csv: for a spreadsheet"
    parser.add_argument("--to", choices=FORMS, required=True, help=what)
    parser.add_argument("--output", type=Path, metavar="PATH", help="a file, for csv a folder (default: beside MODEL)")
    starts = parser.add_mutually_exclusive_group()
    starts.add_argument("--start", type=int, metavar="SEED", help="the start of this seed alone, not the vote of all")
    starts.add_argument(
        "--all", action="store_true", help="all starts, with csv too, which has the best alone otherwise"
    )
    return parser


def main() -> None:
    """Exit code 1 if nothing could be exported."""
    options = parser().parse_args()
    suffix, place, write = FORMS[options.to]
    try:
        classifier = load(options.model)
        count = len(classifier.seeds)
        if options.start is not None:
            classifier = classifier.only(options.start)
        elif options.to == "csv" and not options.all:
            classifier = classifier.only(classifier.seeds[0])
        beside = options.model if options.model.is_dir() else options.model.parent
        if options.output is None:
            check_links(beside)
        stem = "network" if options.start is None else f"network-start{options.start}"
        path = options.output or beside / f"{stem}{suffix}"
        if options.to != "csv" and path.suffix != suffix:
            raise InputError(f"{path}: give --output a name that ends in {suffix}.")
        if not path.parent.is_dir():
            raise InputError(f"{path.parent}: there is no such folder; give --output one that there is.")
        with place(path) as new:
            checked = write(classifier, new)
    except (InputError, OSError) as error:
        end(error, 1)
    written = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    starts = f"{len(classifier.seeds)} starts that vote" if len(classifier.seeds) > 1 else "1 start"
    if options.start is None and len(classifier.seeds) < count:
        starts = f"the best of {count} starts, seed {classifier.seeds[0]} (--all for all)"
    print(f"{visible(str(relative(path)))}: {starts}, {written / 1e6:.2f} MB")
    print(f"checked: {checked}")
