"""The answers behind a server: pictures that come at any time, read by every core, told in batches.

A picture is decoded as soon as it has come, by a thread for each core. Those that are ready while the networks compute
go through them together afterwards, so that a busy server has large batches and an idle one no delay.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from hillstart.images import read_picture
from hillstart.inference import Classifier, Prediction
from hillstart.voting import UNSURE_BELOW

MAX_BYTES, MAX_PIXELS = 10_000_000, 20_000_000
BATCH = 64
"""Pictures that go through the networks at once; so few take less memory than the weights do."""
WAITING, WAITING_BYTES = 512, 512 << 20
"""Pictures that may wait to be answered, and what all that is received may take in memory."""
READ_SECONDS = 60
"""For a picture to come whole."""

CLOSE = {"Connection": "close"}
"""Of an answer to a body that was not read to its end: what comes next on this connection is no request."""
BUSY, LATER = (503, "too many pictures wait; try again in a second."), {"Retry-After": "1"}


class RefusedError(Exception):
    """A request that is not answered with a prediction: status, a sentence for the client, headers."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.headers = status, headers or {}


class Service:
    """Answers to pictures that come at any time. Its state belongs to the event loop, and so needs no lock.

    Args:
        classifier: who answers.
        max_bytes: of a picture's file.
        max_pixels: of a picture, decoded.
        unsure_below: the share of the starts that must agree.
        waiting: how many pictures may wait.
    """

    def __init__(
        self, classifier: Classifier, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS,
        unsure_below: float = UNSURE_BELOW, waiting: int = WAITING,
    ):  # fmt: skip
        self.classifier, self.max_bytes, self.max_pixels = classifier, max_bytes, max_pixels
        self.unsure_below, self.waiting = unsure_below, waiting
        self._readers, self._networks = ThreadPoolExecutor(os.cpu_count()), ThreadPoolExecutor(1)
        self._ready: list[tuple[Tensor, asyncio.Future[str]]] = []
        self._computing: asyncio.Task[None] | None = None
        self._received = self._unanswered = 0
        seen = classifier.model.preprocessing
        blank = torch.zeros(seen.channels, seen.size, seen.size, dtype=torch.uint8)
        self._networks.submit(self._answers, [blank]).result()  # the first answer of a process is slow

    async def answer(self, parts: AsyncIterable[bytes]) -> str:
        """The JSON that answers to one picture, which comes in parts.

        Raises:
            InputError: it is not a usable picture.
            RefusedError: it is too large or too slow, or there are too many.
        """
        received: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(READ_SECONDS):
                async for part in parts:
                    received.append(part)
                    size += len(part)
                    self._received += len(part)
                    if size > self.max_bytes:
                        raise self.too_large()
                    if self._received > WAITING_BYTES:
                        raise RefusedError(*BUSY, headers=CLOSE | LATER)
            if self._unanswered >= self.waiting:
                raise RefusedError(*BUSY, headers=LATER)
            picture = b"".join(received)
            received.clear()  # or its parts would be kept beside the whole
            self._unanswered += 1
            try:
                return await self._answer(picture)
            finally:
                self._unanswered -= 1
        except TimeoutError:
            raise RefusedError(408, f"no whole picture came within {READ_SECONDS} s; send it again.", CLOSE) from None
        except asyncio.CancelledError:  # nothing but the end of the server does that
            raise RefusedError(503, "the server has ended; start it again.") from None
        finally:
            self._received -= size

    def too_large(self) -> RefusedError:
        """For a body of more than `max_bytes`."""
        return RefusedError(413, f"the file is too large; send one of at most {self.max_bytes / 1e6:g} MB.", CLOSE)

    async def _answer(self, picture: bytes) -> str:
        loop, preprocessing = asyncio.get_running_loop(), self.classifier.model.preprocessing
        pixels = await loop.run_in_executor(self._readers, read_picture, picture, preprocessing, self.max_pixels)
        answer: asyncio.Future[str] = loop.create_future()
        self._ready.append((pixels, answer))
        if self._computing is None:
            self._computing = loop.create_task(self._compute())
        return await answer

    async def _compute(self) -> None:
        """Whatever is ready, batch after batch, until nothing is."""
        loop = asyncio.get_running_loop()
        while self._ready:
            batch, self._ready = self._ready[:BATCH], self._ready[BATCH:]
            answers: Sequence[str | Exception]
            try:
                answers = await loop.run_in_executor(self._networks, self._answers, [pixels for pixels, _ in batch])
            except Exception as error:  # each of these clients is to hear of it, and the next ones to be answered
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # cancelled
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
        self._computing = None

    def _answers(self, pixels: list[Tensor]) -> list[str]:
        return [_json(found) for found in self.classifier.answer(torch.stack(pixels), self.unsure_below)]


def _json(found: Prediction) -> str:
    """In ASCII, since a class may be named after a folder whose bytes are no text."""
    uncalibrated = {} if found.calibrated else {"calibrated": False}
    return json.dumps({
        "label": found.label,
        "probability": found.probability,
        "probabilities": found.probabilities,
        "agreement": found.agreement,
        "unsure": found.unsure,
        "opinions": [{"seed": o.seed, "label": o.label, "probability": o.probability} for o in found.opinions],
    } | uncalibrated)  # fmt: skip
