"""The section on how good the answers are: confusion matrix with the pictures behind it, mistakes, reliability."""

import io
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from hillstart.data.batches import Sample
from hillstart.data.dataset import PictureSet
from hillstart.inference.classifier import Classifier
from hillstart.inference.voting import Calibration, probabilities, vote
from hillstart.report import charts
from hillstart.report.page import Section, data_uri
from hillstart.report.reliability import TITLES, draw, with_bins
from hillstart.runs.summary import temperature_effect
from hillstart.system.statistics import accuracy_interval

MISTAKES = 12
BEHIND_A_CELL, PIXELS_IN_ALL = 12, 1_500_000
COLUMNS = 24


def section(model: Classifier, data: PictureSet, summary: dict[str, Any]) -> Section:
    """The section on the answers of the vote to the test pictures.

    Args:
        summary: what `summary.json` holds.
    """
    y, p = data.test.y, probabilities_of(model, data)
    sure, said = p.max(-1)
    counts = torch.bincount(y * len(data.classes) + said, minlength=len(data.classes) ** 2).view(len(data.classes), -1)
    wrong = (said != y).nonzero().flatten()
    worst = wrong[sure[wrong].argsort(descending=True, stable=True)][:MISTAKES].tolist()
    most = max(1, min(BEHIND_A_CELL, PIXELS_IN_ALL // (data.test.x[0].numel() * int((counts > 0).sum()))))
    behind = {(a, b): _members((a, b), y, said, sure, most) for a, b in counts.nonzero().tolist()}
    shown = list(dict.fromkeys([*worst, *(i for members in behind.values() for i in members)]))
    sheet = {i: (k % COLUMNS, k // COLUMNS) for k, i in enumerate(shown)}

    def card(i: int) -> dict[str, Any]:
        (column, row), truth, answer = sheet[i], data.classes[y[i]], data.classes[said[i]]
        return {"x": column, "y": row, "truth": truth, "answer": answer, "sure": round(float(sure[i]), 4)}

    return Section(
        "quality",
        "How good is it",
        "Look at the cells off the diagonal: there the answer was wrong, and a click shows on which pictures.",
        {
            "summary": summary,
            "classes": data.classes,
            "counts": counts.tolist(),
            "pictures": len(y),
            "wrong": len(wrong),
            "mistakes": [card(i) for i in worst],
            "sheet": data_uri(_sheet(data.test.x[shown]), "image/png"),
            "columns": COLUMNS,
            "reliability": _reliability(summary["calibration"]),
            "calibration": summary["calibration"],
            "kept": model.network.starts,
            "figures": [
                (name, summary[key], accuracy_interval(summary[key], len(y)))
                for name, key in (
                    ("chosen start", "test_accuracy"),
                    (f"vote of {model.network.starts} starts", "vote_test_accuracy"),
                )[: model.network.starts]
            ],
            "told": temperature_effect(summary["calibration"], summary["vote_test_accuracy"], len(y)),
        },
        {"cells": {f"{a},{b}": [card(i) for i in members] for (a, b), members in behind.items()}},
    )


def probabilities_of(model: Classifier, data: PictureSet) -> Float[Tensor, "N n_out"]:
    """Calibrated probabilities of the vote for each test picture."""
    sample = Sample(data.test, len(data.classes), data.preprocessing, torch.device("cpu"))
    outputs = torch.cat([vote(model.network.forward(x)[-1]) for x, _ in sample.batches()])
    return probabilities(outputs, (model.calibration or Calibration(1.0, ())).vote)


def _reliability(calibration: dict[str, Any]) -> list[Markup]:
    found = with_bins(calibration)
    label = "How often answers are right, by how sure they are: "
    return [charts.svg(draw(found, {when: title}), label + title) for when, title in TITLES.items()]


def _members(
    cell: Sequence[int], y: Int64[Tensor, " N"], said: Int64[Tensor, " N"], sure: Float[Tensor, " N"], most: int
) -> list[int]:
    """The pictures of a cell, the surest first."""
    members = ((y == cell[0]) & (said == cell[1])).nonzero().flatten()
    return members[sure[members].argsort(descending=True, stable=True)][:most].tolist()


def _sheet(x: UInt8[Tensor, "N C H W"]) -> bytes:
    """Pictures side by side as one PNG, which takes less room than one each."""
    N, C, H, W = x.shape
    rows = -(-N // COLUMNS)
    laid = torch.zeros(rows * COLUMNS, C, H, W, dtype=torch.uint8)
    laid[:N] = x
    pixels = laid.view(rows, COLUMNS, C, H, W).permute(0, 3, 1, 4, 2).reshape(rows * H, COLUMNS * W, C)
    text = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1).numpy()).save(text, "PNG", optimize=True)
    return text.getvalue()
