"""Networks that classify pictures or rows: labels, probabilities, and the opinion of each start."""

import html
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float, Real, UInt8
from torch import Tensor

from hillstart.arguments import described
from hillstart.data.images import PictureSource, is_one, pictures_in, read_picture
from hillstart.data.preprocessing import Preprocessing, Standardisation
from hillstart.data.table import Row, RowSource, is_row, read_row
from hillstart.engine.starts import Start
from hillstart.inference.prediction import Opinion, Prediction, Predictions, table
from hillstart.inference.voting import UNSURE_BELOW, Calibration, agreement, probabilities, vote
from hillstart.network import Network
from hillstart.system.errors import InputError
from hillstart.system.machine import parallel_map
from hillstart.system.untrusted import briefly

# Pictures in one forward pass, unless a layer of all starts would then take more memory than this.
BATCH, BATCH_BYTES = 256, 64 << 20
# Pictures that a thread reads as one task: a task for each picture would cost a tenth of the time that reading takes.
AT_ONCE = 16
# A picture seems inverted if its negative is nearer in brightness by more than this, on a scale from 0 to 1. Photos of
# paper are grey rather than white.
INVERTED = 0.25
# Tasks that are read ahead of the forward pass.
AHEAD = 2 * BATCH // AT_ONCE


Source = PictureSource | RowSource


def index_of(seed: int, seeds: Sequence[int]) -> int:
    """The index of the first, which is the best, of the kept starts with this seed.

    Raises:
        InputError: there is none.
    """
    if seed not in seeds:
        raise InputError(
            f"start {seed}: was not kept; the starts are {briefly(', '.join(map(str, sorted(set(seeds)))))}."
        )
    return seeds.index(seed)


@dataclass(frozen=True, eq=False, repr=False)
class Classifier:
    """The kept starts of a run, the best by validation first, and all that a prediction needs.

    Attributes:
        network: the starts, on the device that computes the predictions.
        origins: the seed and the hyperparameters of each start.
        classes: their names, in the order of the outputs.
        calibration: the fitted temperatures; None if none were fitted.
        trained_on: `pictures`, `files` and `sha256` of the list of files they came from, and their mean `brightness`;
            None if unknown.
        versions: of the packages that the networks were trained with.
        val_accuracies: the validation accuracy of each start; None if unknown, as in files of version 0.1.
        invert: predict for the negative of each picture, as for digits in ink by networks that learned white on black.

    Example:
        >>> classifier = hillstart.load("outputs/2026-11-27/10-00-00")
        >>> classifier.classes, sorted(classifier.seeds)
        (('lion', 'duck'), [0, 1, 2, 3])
        >>> classifier.only(3).network
        Network(1 start of [784, 30, 2], sigmoid, cross_entropy)
        >>> negatives = dataclasses.replace(classifier, invert=True)
    """

    network: Network
    origins: tuple[Start, ...]
    classes: tuple[str, ...]
    preprocessing: Preprocessing | Standardisation
    calibration: Calibration | None = None
    trained_on: Mapping[str, Any] | None = None
    versions: Mapping[str, str] | None = None
    val_accuracies: tuple[float, ...] | None = None
    invert: bool = False

    def __repr__(self) -> str:
        return f"Classifier({'; '.join(f'{name} {value}' for name, value in self._described())})"

    def _repr_html_(self) -> str:
        return table((), ([f"<b>{name}</b>", html.escape(value)] for name, value in self._described()))

    def _described(self) -> Iterator[tuple[str, str]]:
        yield "networks", repr(self.network)
        yield "classes", ", ".join(self.classes)
        yield "inputs", str(self.preprocessing)
        if known := self.val_accuracies:
            others = f" for the best start, median {median(known):.4g}" if len(known) > 1 else ""
            yield "validation accuracy", f"{known[0]:.4g}{others}"

    @property
    def calibrated(self) -> bool:
        """True if temperatures were fitted, so that probabilities match frequencies."""
        return self.calibration is not None

    @property
    def temperatures(self) -> Calibration:
        """The temperatures that predictions use: 1 if none were fitted."""
        return self.calibration or Calibration(1.0, (1.0,) * self.network.starts)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the starts, the best by validation first."""
        return tuple(start.seed for start in self.origins)

    def node_name(self, l: int, j: int) -> str:
        """The name of a node; l is 0 for the first layer after the picture: `hidden1.3` is the third node of it."""
        is_last = l == len(self.network.sizes) - 2
        return f"output.{self.classes[j]}" if is_last else f"hidden{l + 1}.{j + 1}"

    @property
    def pictures(self) -> Preprocessing:
        """The preprocessing of pictures.

        Raises:
            InputError: the networks do not classify pictures.
        """
        if not isinstance(self.preprocessing, Preprocessing):
            raise InputError(
                "the networks classify rows of a table, not pictures; predict.py, evaluate.py, explain.py and "
                "report.py take tables."
            )
        return self.preprocessing

    def only(self, seed: int) -> "Classifier":
        """One start alone, with its own temperature; of several with this seed, the best by validation.

        Raises:
            InputError: no start with this seed was kept.
        """
        s = index_of(seed, self.seeds)
        T = self.temperatures.starts[s]
        calibration = Calibration(T, (T,)) if self.calibration else None
        network, accuracy = self.network.pick([s]), self.val_accuracies and (self.val_accuracies[s],)
        return replace(
            self, network=network, origins=(self.origins[s],), calibration=calibration, val_accuracies=accuracy
        )

    # ------------------------------------------------------------ predictions

    def predict(self, sources: Source | Iterable[Source], unsure_below: float = UNSURE_BELOW) -> Any:
        """Classify one picture or row, giving a `Prediction`, or many, giving a list of them.

        Args:
            sources: a path, a file's bytes, a file opened in binary mode, a PIL picture, an array or a tensor, as
                `images.read_picture` takes them; or many of them, also as one array or tensor of four dimensions, or as
                the path of a folder, for all pictures below it. A row: a dict with the names of the columns, or an
                array (D,); many: a list of dicts, a data frame, or an array (N, D).
            unsure_below: the share of the starts that must agree, from 0 to 1.

        Raises:
            InputError: a picture or a row cannot be used, or a folder holds none; the message names it.

        Example:
            >>> classifier = hillstart.load("outputs/2026-11-27/10-00-00")
            >>> classifier.predict("lion.jpg")
            Prediction('lion.jpg', '...' 0..., ... of 4 starts agree...)
            >>> len(classifier.predict(["lion.jpg", numpy.zeros((3, 40, 30))]))
            2
        """
        if not isinstance(self.preprocessing, Preprocessing):
            if to_dict := getattr(sources, "to_dict", None):  # a data frame, whose library may not be installed
                sources = to_dict("records")
            one = is_row(sources)
        else:
            if isinstance(sources, str | os.PathLike) and sources and Path(sources).is_dir():
                sources = pictures_in(sources)
            one = is_one(sources, self.preprocessing)
        found = Predictions()
        for answer in self.predict_each([sources] if one else sources, unsure_below):  # type: ignore[list-item, arg-type]
            if isinstance(answer, InputError):
                raise answer
            found.append(answer)
        return found[0] if one else found

    def predict_each(
        self, sources: Iterable[Source], unsure_below: float = UNSURE_BELOW
    ) -> Iterator[Prediction | InputError]:
        """Classify pictures or rows in order, in constant memory; one that cannot be used yields its error.

        Raises:
            InputError: `unsure_below` is not a share.
        """
        if not isinstance(unsure_below, int | float) or not 0 <= unsure_below <= 1:
            raise InputError(f"unsure_below is {unsure_below!r}; give a share of the starts from 0 to 1.")
        for batch, pixels, outputs in self.outputs_each(sources):
            names = [name for name, error in batch if error is None]
            answers = self._answers(pixels, outputs, unsure_below, names)
            for _, error in batch:
                yield error or next(answers)

    def outputs_each(
        self, sources: Iterable[Source]
    ) -> Iterator[tuple[list[tuple[str | None, InputError | None]], Tensor, Float[Tensor, "S B n_out"]]]:
        """The outputs for any number of pictures or rows, batch by batch.

        A thread for each core reads ahead of the forward pass.

        Returns:
            For each batch the name and the error, if there is one, of each picture or row; pixels or numbers, and
            outputs, of the others.
        """

        def read(sources: Sequence[Any]) -> list[tuple[str | None, Tensor | InputError]]:
            found: list[tuple[str | None, Tensor | InputError]] = []
            for source in sources:
                name = os.fspath(source) if isinstance(source, str | os.PathLike) else None
                try:
                    if isinstance(preprocessing, Preprocessing):
                        found.append((name, read_picture(source, preprocessing)))
                    else:
                        name = str(source) if isinstance(source, Row) else None
                        found.append((name, read_row(source, preprocessing)))
                except InputError as error:
                    found.append((name, error))
            return found

        preprocessing, sources = self.preprocessing, iter(sources)
        tasks = iter(lambda: list(islice(sources, AT_ONCE)), [])
        read_ahead = chain.from_iterable(parallel_map(read, tasks, AHEAD))
        widest = max(self.network.sizes[0], self.network.starts * max(self.network.sizes[1:]))
        size = max(1, min(BATCH, BATCH_BYTES // (4 * widest)))
        while batch := list(islice(read_ahead, size)):
            usable = [found for _, found in batch if isinstance(found, Tensor)]
            pixels = torch.stack(usable) if usable else torch.empty(0, 1, 1, 1, dtype=torch.uint8)
            outputs = self.outputs(pixels) if usable else torch.empty(self.network.starts, 0, len(self.classes))
            yield [(name, None if isinstance(found, Tensor) else found) for name, found in batch], pixels, outputs

    def outputs(self, x: UInt8[Tensor, "B C H W"] | Real[Tensor, "B D"]) -> Float[Tensor, "S B n_out"]:
        """a^L of every start for pictures as `read_picture` makes them, or for rows, before vote and temperature.

        Raises:
            InputError: x does not fit the networks, or an output is not a finite number, as weights that are finite but
                far too large can make it.
        """
        p = self.preprocessing
        shape = (p.channels, p.size, p.size) if isinstance(p, Preprocessing) else (p.inputs,)
        if not isinstance(x, Tensor) or tuple(x.shape[1:]) != shape:
            kind = "a uint8 tensor" if isinstance(p, Preprocessing) else "a tensor"
            raise InputError(f"x is {described(x)}; give {kind} (B, {', '.join(map(str, shape))}).")
        x = (255 - x if self.invert else x).to(self.network.w[0].device)
        outputs = self.network.forward(p.normalise(x).to(self.network.w[0].dtype))[-1]
        if not outputs.isfinite().all():
            raise InputError("an output of the networks is not a finite number; give a model file as a run wrote it.")
        return outputs

    def _seems_inverted(self, pixels: UInt8[Tensor, "B C H W"] | Real[Tensor, "B D"]) -> list[bool]:
        if not isinstance(self.preprocessing, Preprocessing):
            return [False] * len(pixels)
        mean, std = self.preprocessing.mean, self.preprocessing.std
        usual = (self.trained_on or {}).get("brightness", sum(mean) / len(mean))
        if not isinstance(usual, int | float) or (not any(mean) and set(std) == {1.0} and not usual):
            return [False] * len(pixels)  # unknown: made by an earlier version, with pixels from 0 to 1
        brightness = pixels.flatten(1).float().mean(1) / 255
        own = 1 - brightness if self.invert else brightness
        return ((own - usual).abs() > (1 - own - usual).abs() + INVERTED).tolist()

    def answer(
        self,
        pixels: UInt8[Tensor, "B C H W"],
        unsure_below: float = UNSURE_BELOW,
        paths: Sequence[str | None] | None = None,
    ) -> Iterator[Prediction]:
        """The predictions for pictures as `read_picture` makes them; raises as `outputs`."""
        return self._answers(pixels, self.outputs(pixels), unsure_below, paths)

    def _answers(
        self,
        pixels: UInt8[Tensor, "B C H W"] | Real[Tensor, "B D"],
        outputs: Float[Tensor, "S B n_out"],
        unsure_below: float,
        paths: Sequence[str | None] | None,
    ) -> Iterator[Prediction]:
        of_vote, ranking = vote(outputs).sort(descending=True, stable=True)
        p = probabilities(of_vote, self.temperatures.vote)
        labels = outputs.argmax(-1)
        T_of_starts = torch.tensor(self.temperatures.starts, device=outputs.device).view(-1, 1, 1)
        own = probabilities(outputs, T_of_starts).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        columns = p, ranking, agreement(outputs), labels.T, own.T
        inverted = self._seems_inverted(pixels)
        names, seeds = self.classes, self.seeds
        for path, seems, *row in zip(paths or [None] * len(p), inverted, *(c.tolist() for c in columns), strict=True):
            sorted_p, order, agreed, own_labels, own_p = row
            ranked = {names[k]: q for k, q in zip(order, sorted_p, strict=True)}
            opinions = tuple(Opinion(seed, names[k], q) for seed, k, q in zip(seeds, own_labels, own_p, strict=True))
            unsure = agreed < unsure_below
            yield Prediction(
                path, names[order[0]], sorted_p[0], ranked, agreed, unsure, opinions, self.calibrated, seems
            )
