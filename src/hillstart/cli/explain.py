"""The command that explains one prediction: `scripts/explain.py`."""

from hillstart.data.images import read_picture
from hillstart.inference.classifier import load
from hillstart.inference.explain import Way, _parser, _show
from hillstart.system.console import end
from hillstart.system.errors import InputError


def main() -> None:
    """`hillstart-explain` and `scripts/explain.py`.

    Exit code 1 where the picture could not be used, 2 where the options or the model could not.
    """
    options = _parser().parse_args()
    try:
        classifier = load(options.model)
        chosen = classifier.only(classifier.seeds[0] if options.start is None else options.start)
    except InputError as error:
        end(error, 2)
    try:
        pixels = read_picture(options.image, chosen.model.preprocessing)
    except InputError as error:
        end(error, 1)
    way = Way(chosen.model, pixels)
    try:
        if not all(a.isfinite().all() for a in way.exact):
            raise InputError("the network answers with what is no number; give a model file as a run wrote it.")
        place = way.find(options.node) if options.node is not None else None
    except InputError as error:
        end(error, 2)
    _show(way, chosen, options.image, place)
