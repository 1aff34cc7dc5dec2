"""Write `report.html`, the page that opens the box, for a finished run or for a multirun as a whole."""

import os
from collections.abc import Sequence
from pathlib import Path

from hillstart.data.images import read_picture
from hillstart.data.preprocessing import Preprocessing
from hillstart.report import boundary, box, hill, learning, live, quality, run, valleys
from hillstart.report.page import Section, render
from hillstart.system.files import check_links, replacing
from hillstart.training.packs import RunSpec

RETRAINING_SECONDS = 30.0
"""Paths take more room than everything else and are not stored. If the training was shorter than this, it is repeated
to show them."""


def write(
    folder: Path,
    spec: RunSpec | None = None,
    pictures: Sequence[str | os.PathLike[str]] = (),
    patience: float = RETRAINING_SECONDS,
    named: Sequence[str] = (),
) -> Path:
    """Write `report.html` into the folder of a run, or at the root of a multirun.

    Args:
        spec: what was trained, if it is still in memory.
        pictures: files of one's own, to be shown beside the test pictures.
        patience: seconds that retraining for the paths may take, as the run took them.
        named: the user's own code that the run used, as KEY._target_=MODULE.CLASS each.

    Returns:
        The path of the page.

    Raises:
        InputError: the run has not ended, its pictures are no longer there, one of `pictures` cannot be used, or a link
            in the folder leads out of it.
    """
    check_links(folder)
    of = run.read(folder, spec, named)
    noun = of.classifier.preprocessing.noun
    content = render([*sections(of, patience, pictures), run.section(of)], _title(of), _about(of, noun), noun)
    page = folder / "report.html"
    with replacing(page, sync=False) as new:
        new.write_text(content, encoding="utf-8")
    return page


def sections(of: run.FinishedRun, patience: float, pictures: Sequence[str | os.PathLike[str]] = ()) -> list[Section]:
    """The sections of the page, from the network to how good it is; the arguments are those of `write`."""
    data = of.spec.data
    own = [(Path(path).name, read_picture(path, of.classifier.pictures)) for path in pictures]
    is_pictures = isinstance(of.classifier.preprocessing, Preprocessing)
    return [
        *(box.sections(of.classifier, data, own) if is_pictures else boundary.sections(of.classifier, data)),
        hill.section(of, patience),
        *(live.sections(of.spec, of.classifier.origins) if is_pictures else []),
        valleys.section(
            of.compared,
            [row.result.val_cost for row in of.sound],
            len(of.diverged),
            data,
            of.summary.get("test_accuracy_of_starts") if of.jobs == 1 else None,
        ),
        learning.section(of),
        quality.section(of.classifier, data, of.summary),
    ]


def _title(of: run.FinishedRun) -> str:
    classes, noun = of.spec.data.classes, of.classifier.preprocessing.noun
    if len(classes) > 4:
        return f"{len(classes)} kinds of {noun}, told apart"
    return f"{', '.join(classes[:-1])} or {classes[-1]}?"


def _about(of: run.FinishedRun, noun: str) -> str:
    count, starts = of.summary["pictures"], len(of.rows)
    networks = "A network" if starts == 1 else f"{starts} networks"
    nodes = f"{' – '.join(map(str, of.classifier.network.sizes))} nodes"
    began = f"{networks} began with random weights and learned from {count['train']} {noun}s."
    if starts == 1:
        return f"{began} It has {nodes}, and this page opens it."
    seed = of.classifier.origins[0].seed
    chosen = f"The one with the lowest cost on {count['val']} others, seed {seed} with {nodes}, is opened here."
    others = f" The page shows these; {of.omitted} more have costs of another kind." if of.omitted else ""
    return f"{began} {chosen}{others}"
