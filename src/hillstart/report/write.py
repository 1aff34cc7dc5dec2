"""The page that opens the box, written for a run that has ended or for a sweep as a whole: `report.html`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hillstart.data.images import read_picture
from hillstart.inference.classifier import Classifier
from hillstart.report import box, finished_run, hill, learning, quality, run_facts, valleys
from hillstart.report.finished_run import FinishedRun
from hillstart.report.hill import BALLS
from hillstart.report.page import Section, render
from hillstart.report.paths import retrain
from hillstart.system.files import check_links, replacing
from hillstart.training.packs import RunSpec

RETRAINING_SECONDS = 30.0
"""Paths are not stored, for they would take more room than all else; the same starts take them once more instead, if
the training of their pack was shorter than this."""


def write(
    folder: Path,
    population: RunSpec | None = None,
    pictures: Sequence[str | os.PathLike[str]] = (),
    patience: float = RETRAINING_SECONDS,
) -> Path:
    """Write `report.html` into the folder of a run, or at the root of a sweep.

    Args:
        population: what was trained, where it is in memory still.
        pictures: files of one's own, to be shown beside the test pictures.
        patience: seconds that retraining for the paths may take, as the run took them.

    Returns:
        The path of the page.

    Raises:
        InputError: the run has not ended, its pictures are no longer there, one of `pictures` cannot be used, or a link
            in the folder leads out of it.
    """
    check_links(folder)
    run = finished_run.read(folder, population)
    data, eta = run.population.data, run.model.origins[0].hyperparameters.eta
    own = [(Path(path).name, read_picture(path, data.preprocessing)) for path in pictures]
    costs = [row.result.val_cost for row in run.sound]
    sections = [
        *box.sections(run.model, data, eta, own=own),
        _hill(run, patience),
        valleys.section(run.compared, costs, len(run.diverged), data),
        learning.section(run),
        quality.section(run.model, data, run.summary),
        run_facts.section(run),
    ]
    page = folder / "report.html"
    with replacing(page, sync=False) as new:
        new.write_text(render(sections, _title(data.classes), _about(run)), encoding="utf-8")
    return page


def _side_by_side(run: FinishedRun) -> tuple[Classifier, int]:
    """The chosen start and the best of those that were trained in its pack, and how many starts that pack had.

    Only in the company they had do starts take the same way once more, to the last bit.
    """
    kept, first = run.model.origins, 0
    beside, trained = set(kept), min(len(kept), BALLS)
    place = list(run.population.starts).index(kept[0])
    for size in run.packs:
        if first <= place < first + size:
            beside, trained = set(run.population.starts[first : first + size]), size
        first += size
    places = [k for k, start in enumerate(kept) if start in beside][:BALLS]
    origins = tuple(kept[k] for k in places)
    return replace(run.model, network=run.model.network.pick(places), origins=origins), trained


def _hill(run: FinishedRun, patience: float) -> Section:
    model, trained = _side_by_side(run)
    summary, paths, why_none = run.summary, None, ""
    seconds = summary["seconds"] * trained / summary["starts"]
    if summary["ranks"] > 1:
        why_none = f"The ways downhill are not shown: the starts were shared by {summary['ranks']} devices."
    elif seconds > patience:
        why_none = (
            f"The ways downhill are not shown, for taking them anew lasts about {seconds:.0f} seconds; "
            f"python scripts/report.py RUN --patience {2 * seconds:.0f} does it."
        )
    else:
        paths = retrain(run.population, run.packs, model.origins, run.max_epochs, run.max_steps)
    return hill.section(model, paths, run.population.data, why_none)


def _title(classes: Sequence[str]) -> str:
    if len(classes) > 4:
        return f"{len(classes)} kinds of picture, told apart"
    return f"{', '.join(classes[:-1])} or {classes[-1]}?"


def _about(run: FinishedRun) -> str:
    sizes, count, starts = run.model.network.sizes, run.summary["pictures"], len(run.rows)
    networks = "A network" if starts == 1 else f"{starts} networks"
    nodes, seed = f"{' – '.join(map(str, sizes))} nodes", run.model.origins[0].seed
    others = f" The page is of these; {run.left_out} more have costs of another kind." if run.left_out else ""
    began = f"{networks} began with random weights and learned from {count['train']} pictures."
    if starts == 1:
        return f"{began} It has {nodes}, and this page opens it."
    chosen = f"The one with the lowest cost on {count['val']} others, seed {seed} with {nodes}, is opened here."
    return f"{began} {chosen}{others}"
