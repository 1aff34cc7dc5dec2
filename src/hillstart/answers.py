"""How predictions are written down: a table for a reader, JSON or CSV for a program."""

import csv
import io
import json
from typing import Any

from hillstart.inference import Classifier, Prediction
from hillstart.terminal import visible


class Table:
    """Columns for a reader, the name last, as it may be long. Of classes the `top` most likely, without it one."""

    def __init__(self, classifier: Classifier, top: int | None = None):
        self._top, self._starts = min(top or 1, len(classifier.classes)), len(classifier.seeds)
        self._label = max(len("label"), *(len(visible(name)) for name in classifier.classes))
        self._agree = max(len("agree"), 1 + 2 * len(str(self._starts)))
        cells = "  ".join([f"{'label':{self._label}}  prob."] * self._top)
        self.headings = f"{cells}  {'agree':>{self._agree}}          picture"

    def line(self, answer: Prediction) -> str:
        ranked = list(answer.probabilities.items())[: self._top]
        cells = "  ".join(f"{visible(name):{self._label}}  {p:5.3f}" for name, p in ranked)
        agree = f"{round(answer.agreement * self._starts)}/{self._starts}"
        return f"{cells}  {agree:>{self._agree}}  {'unsure' if answer.unsure else '':6}  {visible(str(answer.path))}"


class Json:
    """An object a line, in ASCII, so that any file name survives any pipe: `os.fsencode(path)` gives its bytes back.

    Of classes the `top` most likely, without it all.
    """

    headings = ""

    def __init__(self, classifier: Classifier, top: int | None = None):
        self._top = top

    def line(self, answer: Prediction) -> str:
        ranked = list(answer.probabilities.items())[: self._top]
        fields: dict[str, Any] = {
            "path": answer.path,
            "label": answer.label,
            "probability": round(answer.probability, 6),
            "probabilities": {name: round(p, 6) for name, p in ranked},
            "agreement": round(answer.agreement, 6),
            "unsure": answer.unsure,
        } | ({} if answer.calibrated else {"calibrated": False})
        return json.dumps(fields)


class Csv:
    """A row for a picture; with `top`, so many classes in it."""

    def __init__(self, classifier: Classifier, top: int | None = None):
        self._top = min(top or 1, len(classifier.classes))
        more = [f"{what}_{k}" for k in range(2, self._top + 1) for what in ("label", "probability")]
        self.headings = _row(["path", "label", "probability", "agreement", "unsure", *more])

    def line(self, answer: Prediction) -> str:
        more = [cell for name, p in list(answer.probabilities.items())[1 : self._top] for cell in (name, round(p, 6))]
        sure = "yes" if answer.unsure else "no"
        return _row([answer.path, answer.label, round(answer.probability, 6), round(answer.agreement, 6), sure, *more])


def _row(cells: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)  # it quotes a line break for being part of the end that it gives a row
    return text.getvalue().removesuffix("\r\n")
