"""Trained networks put to use: pictures in, and out come labels, probabilities, and what each start thinks."""

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from hillstart.data.images import MAX_PIXELS, PictureSource, read_picture
from hillstart.inference import model_file
from hillstart.inference.model_file import Model
from hillstart.inference.voting import UNSURE_BELOW, Calibration, agreement, probabilities, vote
from hillstart.system import untrusted
from hillstart.system.console import visible
from hillstart.system.errors import InputError
from hillstart.system.files import relative

# Pictures that go through the networks at once, as long as no layer of all starts takes more memory than this.
BATCH, BATCH_BYTES = 256, 64 << 20
# Pictures that a thread reads in one go: handing over each alone would cost a tenth of what reading it does.
AT_ONCE = 16
MOST_NAMED = 10
"""Runs that a sentence names."""

log = logging.getLogger(__name__)
"""For what a user should know besides the answer; where logging is not set up, Python prints it to standard error."""

Read = tuple[str | None, Tensor | InputError]
"""A path, where there is one, and the picture or what is wrong with it."""


class Opinion(NamedTuple):
    """What one start thinks of a picture."""

    seed: int
    label: str
    probability: float


class Prediction(NamedTuple):
    """The answer to one picture.

    Attributes:
        path: as it was given; None for a picture that was not a file.
        probability: of `label`, as calibrated on validation pictures.
        probabilities: of every class, the most likely first.
        agreement: the share of the starts whose own label this is.
        unsure: `agreement` is below the threshold that was asked for.
        opinions: of each start, the best by validation first.
        calibrated: False where no temperature was fitted: then a probability is no more than an output's share.
    """

    path: str | None
    label: str
    probability: float
    probabilities: dict[str, float]
    agreement: float
    unsure: bool
    opinions: tuple[Opinion, ...]
    calibrated: bool = True


class Classifier:
    """The kept starts of a run, ready to answer.

    Args:
        model: networks with their classes, preprocessing and temperatures.
        device: where they compute.
    """

    def __init__(self, model: Model, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.model = replace(model, network=model.network.to(self.device))
        S = model.network.starts
        self.calibration = model.calibration or Calibration(1.0, (1.0,) * S)
        self._temperatures = torch.tensor(self.calibration.starts, device=self.device).view(S, 1, 1)
        widest = max(self.model.network.sizes[0], S * max(self.model.network.sizes[1:]))
        self._batch = max(1, min(BATCH, BATCH_BYTES // (4 * widest)))

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the outputs."""
        return self.model.classes

    @property
    def calibrated(self) -> bool:
        """Whether temperatures were fitted, so that a probability means what it says."""
        return self.model.calibration is not None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the starts that vote, the best by validation first."""
        return tuple(start.seed for start in self.model.origins)

    def only(self, seed: int) -> "Classifier":
        """One start alone, with its own temperature; of several with this seed, the best by validation.

        Raises:
            InputError: no start with this seed was kept.
        """
        if seed not in self.seeds:
            kept = ", ".join(map(str, sorted(set(self.seeds))))
            raise InputError(f"start {seed}: is not among those that were kept; there are {kept}.")
        s = self.seeds.index(seed)
        T = self.calibration.starts[s]
        alone = Calibration(T, (T,)) if self.model.calibration else None
        network, origins = self.model.network.pick([s]), (self.model.origins[s],)
        return Classifier(replace(self.model, network=network, origins=origins, calibration=alone), self.device)

    # ------------------------------------------------------------ answers

    def predict(self, sources: PictureSource | Iterable[PictureSource], unsure_below: float = UNSURE_BELOW) -> Any:
        """Answer to one picture by a `Prediction`, to many by a list of them.

        Args:
            sources: a path, a file's bytes, a PIL picture, an array or a tensor as `images.read_picture` takes it; or
                many of them, for which an array (N, H, W, C) and a tensor (N, C, H, W) will do.
            unsure_below: the share of the starts that must agree.

        Raises:
            InputError: a picture cannot be used; the sentence names it.
        """
        one = isinstance(sources, str | bytes | os.PathLike | Image.Image) or (
            isinstance(sources, np.ndarray | Tensor) and sources.ndim < 4
        )
        found = []
        for answer in self.predict_each([sources] if one else sources, unsure_below):  # type: ignore[list-item, arg-type]
            if isinstance(answer, InputError):
                raise answer
            found.append(answer)
        return found[0] if one else found

    def predict_each(
        self, sources: Iterable[PictureSource], unsure_below: float = UNSURE_BELOW, max_pixels: int = MAX_PIXELS
    ) -> Iterator[Prediction | InputError]:
        """Answer to any number of pictures in turn, in steady memory; where one cannot be used, by the error.

        Some pictures are read ahead of those that are answered, by a thread for each core.
        """

        def read(some: Sequence[PictureSource]) -> list[Read]:
            found: list[Read] = []
            for source in some:
                name = os.fspath(source) if isinstance(source, str | os.PathLike) else None
                try:
                    found.append((name, read_picture(source, self.model.preprocessing, max_pixels)))
                except InputError as error:
                    found.append((name, error))
            return found

        sources = iter(sources)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ahead: deque[list[Future[list[Read]]]] = deque()
            while batch := list(islice(sources, self._batch)):
                ahead.append([pool.submit(read, batch[k : k + AT_ONCE]) for k in range(0, len(batch), AT_ONCE)])
                if len(ahead) > 1:
                    yield from self._answers(ahead.popleft(), unsure_below)
            if ahead:
                yield from self._answers(ahead.popleft(), unsure_below)

    def outputs(self, pixels: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "S B n_out"]:
        """a^L of every start for pictures as `read_picture` makes them, before vote and temperature."""
        return self.model.network.forward(self.model.preprocessing.normalise(pixels.to(self.device)))[-1]

    def _answers(self, futures: Sequence[Future[list[Read]]], unsure_below: float) -> Iterator[Prediction | InputError]:
        read = [of_one for future in futures for of_one in future.result()]
        names = [name for name, found in read if isinstance(found, Tensor)]
        pixels = [found for _, found in read if isinstance(found, Tensor)]
        answers = self.answer(torch.stack(pixels), unsure_below, names) if pixels else iter(())
        for _, found in read:
            yield found if isinstance(found, InputError) else next(answers)

    def answer(
        self,
        pixels: UInt8[Tensor, "B C H W"],
        unsure_below: float = UNSURE_BELOW,
        paths: Sequence[str | None] | None = None,
    ) -> Iterator[Prediction]:
        """The predictions for pictures as `read_picture` makes them.

        Raises:
            InputError: an output is no number, as weights that are finite but far too large can make it.
        """
        outputs = self.outputs(pixels)
        if not outputs.isfinite().all():
            raise InputError("the networks answer with what is no number; give a model file as a run wrote it.")
        of_vote, places = vote(outputs).sort(descending=True, stable=True)
        p = probabilities(of_vote, self.calibration.vote)
        labels = outputs.argmax(-1)
        own = probabilities(outputs, self._temperatures).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        rows = zip(
            paths or [None] * len(pixels), p.tolist(), places.tolist(), agreement(outputs).tolist(),
            labels.T.tolist(), own.T.tolist(), strict=True,
        )  # fmt: skip
        names, seeds = self.classes, self.seeds
        for path, probability, order, agreed, their, of_starts in rows:
            ranked = {names[k]: q for k, q in zip(order, probability, strict=True)}
            opinions = tuple(Opinion(seed, names[k], q) for seed, k, q in zip(seeds, their, of_starts, strict=True))
            unsure = agreed < unsure_below
            yield Prediction(
                path, names[order[0]], probability[0], ranked, agreed, unsure, opinions, self.calibrated
            )  # fmt: skip


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Classifier:
    """The networks of a run folder, of a `network.safetensors` or of a Lightning checkpoint (`.ckpt`).

    Of a run that has not finished a pack yet, those of its last checkpoint; of a multirun those of its best job, which
    is then named on the log, as is a model whose probabilities are not calibrated. Nothing that is loaded can run code.

    Raises:
        InputError: there are none, the file is damaged, or there is no such device; or a multirun has no best job.
    """
    device, path = _device(device), Path(path)
    if path.is_dir():
        path = _networks_in(path)
    elif path.suffix == ".ckpt" and _is_multirun(run := path.absolute().parent.parent):
        raise InputError(f"{path}: holds starts of several jobs of a multirun; give {_one_of(run)}.")
    model = model_file.load_checkpoint(path) if path.suffix == ".ckpt" else model_file.load(path)
    if model.calibration is None:
        whole = path.absolute().parent.parent / "network.safetensors"
        advice = f"; those of {relative(whole.parent)} are" if path.suffix == ".ckpt" and whole.is_file() else ""
        log.warning(visible(
            f"hillstart: {path}: its probabilities are not calibrated, as no temperature was fitted to it{advice}."
        ))  # fmt: skip
    return Classifier(model, device)


def _networks_in(folder: Path) -> Path:
    """The file with the networks of a run, or of the best job of a multirun."""
    whole, last = folder / "network.safetensors", folder / "checkpoints" / "last.ckpt"
    if whole.exists():
        return whole
    if _is_multirun(folder):
        best = _best_job(folder)
        log.warning(visible(f"hillstart: {folder}: is a multirun; its best job, {best}, answers."))
        return folder / best / whole.name
    if last.exists():
        return last
    raise InputError(
        f"{folder}: holds neither network.safetensors nor a checkpoint; give {_one_of(folder)}, of a multirun that of "
        "one of its jobs."
    )


def _is_multirun(folder: Path) -> bool:
    """Whether the jobs of a multirun lie in a folder, whose own checkpoint is then of starts of all jobs mixed."""
    if (folder / "network.safetensors").exists():
        return False
    return (folder / "multirun.yaml").is_file() or any(folder.glob("*/network.safetensors"))


def _best_job(folder: Path) -> str:
    """The folder of the best job of a multirun, within that of the multirun.

    Raises:
        InputError: there is none, or its networks are not there.
    """
    path = folder / "summary.json"
    if not path.exists():
        raise InputError(
            f"{folder}: holds several runs, and no summary.json that names the best job of a multirun; give "
            f"{_one_of(folder)}."
        )
    with untrusted.opened(path) as file:
        summary = untrusted.parsed(path, file.read(untrusted.MAX_DESCRIPTION_BYTES))
    best = summary.get("best_job") if isinstance(summary, dict) else None
    if best is None:
        raise InputError(f"{folder}: is a multirun without a best job, as its jobs were validated on different "
                         f"pictures; give {_one_of(folder)}.")  # fmt: skip
    if not isinstance(best, str) or Path(best).is_absolute() or ".." in Path(best).parts:
        raise InputError(f"{path}: best_job is not the name of a job's folder; give {_one_of(folder)}.")
    if not (folder / best / "network.safetensors").exists():
        raise InputError(f"{folder}: its best job, {best}, holds no network.safetensors; give {_one_of(folder)}.")
    return best


def _one_of(folder: Path) -> str:
    """The folder of a run, in words, with the names of those that lie in `folder`."""
    runs = sorted(path.parent.name for path in folder.glob("*/network.safetensors"))
    more = f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else ""
    there = f"; {folder} holds {', '.join(runs[:MOST_NAMED])}{more}" if runs else ""
    return f"the folder of a run (outputs/DATE/TIME{there})"


def _device(name: torch.device | str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device: {name!r} is none; give cpu or cuda.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device: there is no {name} here; leave it out, or give cpu.")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device: {name} is not supported; give cpu or cuda.")
    return device
