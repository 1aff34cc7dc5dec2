"""Export networks for other programs: `hillstart-export` and `scripts/export.py`."""

from argparse import ArgumentParser
from pathlib import Path

from hillstart.inference.export import FORMS
from hillstart.inference.loading import load
from hillstart.system.console import end, visible
from hillstart.system.errors import InputError
from hillstart.system.files import check_links, relative


def parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Take networks elsewhere: as one program from pixels to probabilities, or as tables.",
        epilog="A program takes uint8 pixels (N, channels, size, size) of pictures that are decoded, cut to the centre "
        "square and resized already; the rest is in it. Its metadata hold the classes and the preprocessing.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a run's folder, its network.safetensors, or a .ckpt")
    what = "onnx: for ONNX Runtime and other engines; torch: for torch.export.load; csv: for a spreadsheet"
    parser.add_argument("--to", choices=FORMS, required=True, help=what)
    parser.add_argument("--output", type=Path, metavar="PATH", help="a file, for csv a folder (default: beside MODEL)")
    parser.add_argument("--start", type=int, metavar="SEED", help="the start of this seed alone, not the vote of all")
    return parser


def main() -> None:
    """Exit code 1 if nothing could be exported."""
    options = parser().parse_args()
    suffix, place, write = FORMS[options.to]
    try:
        classifier = load(options.model)
        if options.start is not None:
            classifier = classifier.only(options.start)
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
    print(f"{visible(str(relative(path)))}: {starts}, {written / 1e6:.2f} MB")
    print(f"checked: {checked}")
