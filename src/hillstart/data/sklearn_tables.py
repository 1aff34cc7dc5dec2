"""Small tables that scikit-learn brings along, known from many textbooks: nothing to download."""

from typing import Annotated

import torch

from hillstart.arguments import nearest
from hillstart.data.dataset import PictureSet, Split, assemble_drawn
from hillstart.data.preprocessing import Standardisation
from hillstart.system.errors import InputError
from hillstart.system.schema import Names, Seed, Share, checked, one_of


@checked("data")
def load(
    *,
    name: Annotated[str, *one_of(("iris", "breast_cancer"))] = "iris",
    columns: Names = None,
    test_fraction: Share = 0.2,
    val_fraction: Share = 0.2,
    seed: Seed = 0,
) -> PictureSet:
    """Load the named table; test and validation are drawn by `seed`, class by class.

    `columns`: the inputs, such as petal_length and petal_width; None: all.
    """
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise InputError(f"data={name} needs scikit-learn; pip install 'hillstart[sklearn]' brings it.") from error
    found = getattr(datasets, f"load_{name}")()
    known = [str(column).removesuffix(" (cm)").replace(" ", "_") for column in found.feature_names]
    wanted = known if columns is None else list(map(str, columns))
    for column in wanted:
        if column not in known:
            raise InputError(f"data.columns: {name} has no column {column!r}{nearest(column, known)}.")
    if not wanted or len(set(wanted)) < len(wanted):
        raise InputError(f"data.columns: {wanted} is empty or lists a column twice; list some, each once.")
    rows = Split(
        torch.from_numpy(found.data)[:, [known.index(column) for column in wanted]], torch.tensor(found.target)
    )
    return assemble_drawn(
        rows,
        test_fraction=test_fraction,
        val_fraction=val_fraction,
        seed=seed,
        classes=tuple(map(str, found.target_names)),
        preprocessing=Standardisation(tuple(wanted)),
        source=f"{name}: {len(rows.y)} rows of scikit-learn",
    )
