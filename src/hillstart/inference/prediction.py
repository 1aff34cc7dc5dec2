"""The answer to a picture or a row, and how a notebook shows it."""

import html
from collections.abc import Iterable
from typing import NamedTuple

MOST_SHOWN = 100
"""Predictions that the table of a notebook lists."""


class Opinion(NamedTuple):
    """The answer of one start to a picture or a row."""

    seed: int
    label: str
    probability: float


class Prediction(NamedTuple):
    """The answer to one picture or row; a notebook shows it as a table of the classes.

    Attributes:
        path: as it was given, FILE:NUMBER for a row of a csv file; None for what was not in a file.
        label: the class with the highest probability.
        probability: of `label`, calibrated on validation pictures.
        probabilities: of every class, the most likely first.
        agreement: the share of the starts whose own label this is.
        unsure: `agreement` is below the threshold that was asked for.
        opinions: of each start, the best by validation first.
        calibrated: False if no temperature was fitted: a probability is then only an output's share of their sum.
        seems_inverted: its brightness is far from that of the training pictures, and as a negative much nearer to it.

    Example:
        >>> answer = hillstart.load("outputs/2026-11-27/10-00-00").predict("lion.jpg")
        >>> answer.label == max(answer.probabilities, key=answer.probabilities.get)
        True
        >>> [opinion.seed for opinion in answer.opinions] == list(hillstart.load("outputs/2026-11-27/10-00-00").seeds)
        True
    """

    path: str | None
    label: str
    probability: float
    probabilities: dict[str, float]
    agreement: float
    unsure: bool
    opinions: tuple[Opinion, ...]
    calibrated: bool = True
    seems_inverted: bool = False

    def __repr__(self) -> str:
        path = [] if self.path is None else [repr(self.path)]
        return f"Prediction({', '.join([*path, f'{self.label!r} {self.probability:.3f}', self._remarks])})"

    def _repr_html_(self) -> str:
        rows = ([html.escape(name), _bar(p)] for name, p in self.probabilities.items())
        title = self._remarks if self.path is None else f"{self.path}: {self._remarks}"
        return f"<p>{html.escape(title)}</p>{table(('class', 'probability'), rows)}"

    @property
    def _remarks(self) -> str:
        starts = len(self.opinions)
        agree = f"{round(self.agreement * starts)} of {starts} start{'s' * (starts != 1)} agree"
        return agree + ", unsure" * self.unsure + ", not calibrated" * (not self.calibrated)


class Predictions(list[Prediction]):
    """A list of predictions; a notebook shows it as a table with a line for each."""

    def _repr_html_(self) -> str:
        rows = (
            [
                html.escape(f"number {i}" if p.path is None else p.path),
                html.escape(p.label),
                _bar(p.probability),
                p._remarks,
            ]
            for i, p in enumerate(self[:MOST_SHOWN])
        )
        shown = table(("path", "label", "probability", "starts"), rows)
        return shown + (f"<p>and {len(self) - MOST_SHOWN} more</p>" if len(self) > MOST_SHOWN else "")


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """An HTML table whose cells are HTML already."""
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"


def _bar(p: float) -> str:
    """A probability as a number beside a bar of 100 pixels."""
    track = "display: inline-block; width: 100px; height: 0.8em; background: #8884; margin-right: 0.5em"
    filled = f'<span style="display: block; width: {100 * p:.0f}%; height: 100%; background: #4a90d9"></span>'
    return f'<span style="{track}">{filled}</span>{p:.3f}'
