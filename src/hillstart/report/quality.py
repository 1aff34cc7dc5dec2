"""The section on how good the answers are: confusion matrix with the pictures behind it, mistakes, reliability."""

import io
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, UInt8
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from hillstart.data.batches import Sample
from hillstart.data.dataset import PictureSet
from hillstart.data.preprocessing import Preprocessing
from hillstart.inference.classifier import Classifier
from hillstart.inference.evaluation import confusion
from hillstart.inference.voting import probabilities, vote
from hillstart.report import charts
from hillstart.report.page import Section, data_uri
from hillstart.runs.summary import temperature_effect
from hillstart.system.statistics import accuracy_interval

MISTAKES = 12
"""Wrong answers that are shown, the surest first."""
PICTURES_OF_CELL, PIXELS_IN_ALL = 12, 1_500_000
"""Limits of the pictures behind a cell of the confusion matrix, and of the numbers in those of all cells."""
COLUMNS = 24
"""Pictures side by side in the image that holds all of them."""
DIAGRAMS = {"before": "outputs as they are", "after": "with the temperature"}


def section(classifier: Classifier, data: PictureSet, summary: dict[str, Any]) -> Section:
    """The section on the answers of the vote to the test pictures.

    Args:
        summary: what `summary.json` holds.
    """
    y, outputs = data.test.y, _votes(classifier, data)
    answers = outputs.argmax(-1)
    confidence = probabilities(outputs, classifier.temperatures.vote).amax(-1)
    counts, noun = confusion(outputs, y), data.preprocessing.noun
    is_pictures = isinstance(data.preprocessing, Preprocessing)  # rows have no look
    most = max(1, min(PICTURES_OF_CELL, PIXELS_IN_ALL // (data.test.x[0].numel() * int((counts > 0).sum()))))

    def surest(mask: Tensor, count: int) -> list[int]:
        indices = mask.nonzero().flatten()
        return indices[confidence[indices].argsort(descending=True, stable=True)][:count].tolist()

    mistakes = surest(answers != y, MISTAKES)
    cells = {f"{a},{b}": surest((y == a) & (answers == b), most) for a, b in counts.nonzero().tolist()}
    shown = list(dict.fromkeys([*mistakes, *(i for members in cells.values() for i in members)]))
    cards = {
        i: {
            "x": k % COLUMNS,
            "y": k // COLUMNS,
            "truth": data.classes[y[i]],
            "answer": data.classes[answers[i]],
            "sure": round(float(confidence[i]), 4),
        }
        for k, i in enumerate(shown)
    }
    calibration, kept = summary["calibration"], classifier.network.starts
    accuracies = {"chosen start": summary["test_accuracy"], f"vote of {kept} starts": summary["vote_test_accuracy"]}
    return Section(
        "quality",
        "How good is it",
        "Look at the cells off the diagonal: there the answer was wrong"
        + (", and a click shows on which pictures." if is_pictures else "."),
        {
            "classes": data.classes,
            "counts": counts.tolist(),
            "pictures": len(y),
            "wrong": int((answers != y).sum()),
            "mistakes": [cards[i] for i in mistakes] if is_pictures else [],
            "sheet": data_uri(_sheet(data.test.x[shown]), "image/png") if is_pictures else None,
            "columns": COLUMNS,
            "reliability": [_diagram(calibration, when, noun) for when in DIAGRAMS],
            "calibration": calibration,
            "kept": kept,
            "figures": [
                (name, accuracy, accuracy_interval(accuracy, len(y)))
                for name, accuracy in list(accuracies.items())[: min(kept, 2)]
            ],
            "effect": temperature_effect(calibration, summary["vote_test_accuracy"], len(y)),
        },
        {"cells": {cell: [cards[i] for i in members] for cell, members in cells.items()}} if is_pictures else None,
    )


def _votes(classifier: Classifier, data: PictureSet) -> Float[Tensor, "N n_out"]:
    """The outputs of the vote for each test picture."""
    sample = Sample(data.test, len(data.classes), data.preprocessing, torch.device("cpu"))
    return torch.cat([vote(classifier.network.forward(x)[-1]) for x, _ in sample.batches()])


def _sheet(x: UInt8[Tensor, "N C H W"]) -> bytes:
    """Pictures side by side as one PNG, which is smaller than one PNG each."""
    N, C, H, W = x.shape
    rows = -(-N // COLUMNS)
    padded = torch.zeros(rows * COLUMNS, C, H, W, dtype=torch.uint8)
    padded[:N] = x
    pixels = padded.view(rows, COLUMNS, C, H, W).permute(0, 3, 1, 4, 2).reshape(rows * H, COLUMNS * W, C)
    png = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1).numpy()).save(png, "PNG", optimize=True)
    return png.getvalue()


# ---------------------------------------------------------------- reliability


def _diagram(calibration: dict[str, Any], when: str, noun: str) -> Markup:
    label = f"How often answers are right, by how sure they are: {DIAGRAMS[when]}"
    return charts.svg(reliability_diagrams(calibration, {when: DIAGRAMS[when]}, noun), label)


def reliability_diagrams(
    calibration: dict[str, Any], titles: Mapping[str, str] = DIAGRAMS, noun: str = "picture"
) -> Figure:
    """Draw the accuracy of the vote on the test pictures or rows against its stated probability.

    Guo et al. 2017, *On Calibration of Modern Neural Networks*, fig. 1: if every probability were true, all bars would
    end on the diagonal.

    Args:
        calibration: as in `summary.json`.
        titles: of the diagrams that are drawn side by side.
        noun: what was classified, for the label of the axis.
    """
    figure, axes = charts.figure(4.5 * len(titles), 4.7, columns=len(titles))
    for ax, (when, title) in zip(axes, titles.items(), strict=True):
        bins, error = calibration["test"][when]["reliability"], calibration["test"][when]["expected_calibration_error"]
        low, wide = [b["low"] for b in bins], [b["high"] - b["low"] for b in bins]
        right, confidence = [b["accuracy"] for b in bins], [b["confidence"] for b in bins]
        # The gap is above the bar of answers that are too sure, and within the bar of those that are too modest.
        gap, bottom = [abs(a - c) for a, c in zip(right, confidence, strict=True)], map(min, right, confidence)
        bar: dict[str, Any] = {"align": "edge", "color": charts.OTHER, "edgecolor": charts.CARD, "label": "are right"}
        hatched: dict[str, Any] = {
            "facecolor": "none",
            "hatch": "////",
            "edgecolor": charts.CHOSEN,
            "linewidth": 0,
            "label": "gap",
        }
        ax.bar(low, right, wide, **bar)
        ax.bar(low, gap, wide, list(bottom), align="edge", **hatched)
        ax.plot([0, 1], [0, 1], color=charts.INK, linestyle="--", linewidth=1, label="as right as sure")
        pictures = sum(b["pictures"] for b in bins)
        for b in bins:
            at = ((b["low"] + b["high"]) / 2, 1.02)
            ax.annotate(f"{100 * b['pictures'] / pictures:.0f}", at, ha="center", fontsize=7.5, color=charts.SOFT)
        ax.set(
            xlim=(0, 1),
            ylim=(0, 1.07),
            aspect="equal",
            xlabel=f"how sure: probability of the label; {pictures} test {noun}s",
            ylabel="how often right",
        )
        ax.set_title(f"{title}: off by {error:.3f}", loc="left")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, **charts.LEGEND)
    return figure
