"""The predictions of the server: pictures arrive at any time, are decoded on every core and classified in batches.

A picture is decoded as soon as it has arrived and a thread is free. Each core has a thread for small pictures and one
for large ones, so that small ones do not wait for large ones. Clients take turns. Pictures that are decoded while the
networks compute form the next batch, so that a busy server has large batches and an idle one no delay.
"""

import asyncio
import json
import os
from collections import Counter, deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import torch
from torch import Tensor

from hillstart.data.images import PictureError, read_picture
from hillstart.inference.classifier import Classifier
from hillstart.inference.prediction import Prediction
from hillstart.inference.voting import UNSURE_BELOW
from hillstart.serve.bodies import most_bytes, picture_in
from hillstart.system.errors import InputError

MAX_BYTES, MAX_PIXELS = 40_000_000, 30_000_000
BATCH = 64
"""Pictures in one forward pass; so few need less memory than the weights."""
WAITING, WAITING_BYTES = 512, 512 << 20
"""Limits of unanswered pictures, and of the bytes received for them."""
SHARE = 0.75
"""The share of both limits, and of the connections, that one client may use."""
SMALL_PIXELS = 2_000_000
"""Pictures of more pixels count as large."""
AHEAD = 8
"""Small pictures in progress for each thread; with one, it would wait for the event loop between two pictures."""
READ_SECONDS, ANSWER_SECONDS = 60, 30
"""Time limits for receiving a picture, and from then on for its answer."""

CLOSE = {"Connection": "close"}
"""Headers of an answer to a body that was not read to its end: what follows on the connection is not a request."""
BUSY, LATER = (503, "too many pictures wait; try again in a second."), {"Retry-After": "1"}


Gone = Callable[[], Awaitable[bool]]


class RefusedError(Exception):
    """A refused request: HTTP status, a sentence for the client, headers."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.headers = status, headers or {}


class Quota:
    """The use of a limit by all clients together and by each of them, which is at most `SHARE` of it."""

    def __init__(self, limit: int):
        self.limit, self.used, self.used_by = limit, 0, Counter[str]()

    def add(self, client: str, amount: int) -> None:
        """Count what a client begins to use, or, below 0, has ceased to use."""
        self.used += amount
        self.used_by[client] += amount
        if not self.used_by[client]:
            del self.used_by[client]

    def exhausted(self, client: str) -> bool:
        """True if this client may not use more."""
        return max(self.used, self.used_by[client] / SHARE) >= self.limit


class Turns:
    """A semaphore that is fair to clients: they take turns, and each is served in the order of its requests."""

    def __init__(self, count: int):
        self._free = count
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn of this client and keep it during the block."""
        if self._free:
            self._free -= 1
        else:
            mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(client, deque()).append(mine)
            try:
                await mine
            except asyncio.CancelledError:
                if not mine.cancelled():  # the turn came at the same moment
                    self._pass_on()
                raise
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            client = next(iter(self._waiting))
            queue = self._waiting.pop(client)
            following = queue.popleft()
            if queue:
                self._waiting[client] = queue  # at the end
            if not following.done():
                following.set_result(None)
                return
        self._free += 1


class Service:
    """Classifies pictures that arrive at any time. Its state belongs to the event loop and needs no lock.

    Args:
        max_bytes: limit of a picture's file.
        max_pixels: limit of a decoded picture.
        unsure_below: the share of the starts that must agree.
        waiting: how many pictures may wait.
    """

    def __init__(
        self,
        classifier: Classifier,
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
        unsure_below: float = UNSURE_BELOW,
        waiting: int = WAITING,
    ):
        self.classifier, self.max_bytes, self.max_pixels = classifier, max_bytes, max_pixels
        self.unsure_below = unsure_below
        self.received, self.unanswered = Quota(WAITING_BYTES), Quota(waiting)
        cores = os.cpu_count() or 1
        self._small = Turns(cores * AHEAD), ThreadPoolExecutor(cores)
        self._large = Turns(cores), ThreadPoolExecutor(cores)
        self._networks = ThreadPoolExecutor(1)
        self._ready: list[tuple[Tensor, asyncio.Future[str]]] = []
        self._computing: asyncio.Task[None] | None = None
        p = classifier.pictures
        blank = torch.zeros(p.channels, p.size, p.size, dtype=torch.uint8)
        self._networks.submit(self._answers, [blank]).result()  # warm-up: the first forward pass of a process is slow

    async def answer(
        self, parts: AsyncIterable[bytes], client: str = "", gone: Gone | None = None, kind: str = ""
    ) -> str:
        """Return the JSON of the prediction for one picture.

        Args:
            parts: the bytes of the body, as they arrive.
            client: its address; the limits are shared between clients.
            gone: returns whether the client has disconnected; its picture is then not decoded.
            kind: the Content-Type of the body, as `bodies.picture_in` takes it.

        Raises:
            InputError: it is not a usable picture.
            RefusedError: it is too large or too slow, there are too many, or the client has left.
        """
        received: list[bytes] = []
        try:
            try:
                async with asyncio.timeout(READ_SECONDS):
                    await self._receive(parts, client, received, most_bytes(kind, self.max_bytes))
            except TimeoutError:
                sentence = f"no whole picture came within {READ_SECONDS} s; send it again."
                raise RefusedError(408, sentence, CLOSE) from None
            if self.unanswered.exhausted(client):
                raise RefusedError(*BUSY, headers=LATER)
            received[:] = [b"".join(received)]  # frees the parts
            self.unanswered.add(client, 1)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    return await self._answer(received[0], kind, client, gone)
            except TimeoutError:
                raise RefusedError(*BUSY, headers=LATER) from None
            finally:
                self.unanswered.add(client, -1)
        except asyncio.CancelledError:  # only the end of the server cancels
            raise RefusedError(503, "the server has ended; start it again.") from None
        finally:
            self.received.add(client, -sum(map(len, received)))

    async def _receive(self, parts: AsyncIterable[bytes], client: str, received: list[bytes], most: int) -> None:
        size = 0
        async for part in parts:
            received.append(part)
            size += len(part)
            self.received.add(client, len(part))
            if size > most:
                raise self.too_large(CLOSE)
            if self.received.exhausted(client):
                raise RefusedError(*BUSY, headers=CLOSE | LATER)

    def too_large(self, headers: dict[str, str] | None = None) -> RefusedError:
        """The refusal of a file of more than `max_bytes`."""
        return RefusedError(413, f"the file is too large; send one of at most {self.max_bytes / 1e6:g} MB.", headers)

    async def _answer(self, body: bytes, kind: str, client: str, gone: Gone | None) -> str:
        small = min(SMALL_PIXELS, self.max_pixels)
        try:
            pixels = await self._decoded(self._small, body, kind, small, client, gone)
        except PictureError as error:
            if error.reason != "too large" or small == self.max_pixels:
                raise
            try:
                pixels = await self._decoded(self._large, body, kind, self.max_pixels, client, gone)
            except PictureError as larger:
                if larger.reason == "too large":
                    raise InputError(f"{str(larger).rstrip('.')}; or set the server's --max-pixels.") from larger
                raise
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        self._ready.append((pixels, answer))
        if self._computing is None:
            self._computing = loop.create_task(self._compute())
        return await answer

    async def _decoded(
        self,
        by: tuple[Turns, ThreadPoolExecutor],
        body: bytes,
        kind: str,
        max_pixels: int,
        client: str,
        gone: Gone | None,
    ) -> Tensor:
        turns, threads = by
        async with turns.turn(client):
            if gone and await gone():
                raise RefusedError(499, "the client has left.")
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(threads, self._read, body, kind, max_pixels)

    def _read(self, body: bytes, kind: str, max_pixels: int) -> Tensor:
        picture = picture_in(body, kind)
        if len(picture) > self.max_bytes:
            raise self.too_large()
        try:
            return read_picture(picture, self.classifier.pictures, max_pixels)
        except PictureError as error:
            if kind != "application/x-www-form-urlencoded" or error.reason not in ("no picture", "damaged"):
                raise
            how = "with curl send a file by --data-binary @FILE or -F file=@FILE, and JSON with its Content-Type"
            raise PictureError(f"{str(error).rstrip('.')}; {how}.", error.reason) from error

    async def _compute(self) -> None:
        """Classify what is ready, batch after batch, until nothing is."""
        loop = asyncio.get_running_loop()
        while self._ready:
            batch, self._ready = self._ready[:BATCH], self._ready[BATCH:]
            answers: Sequence[str | Exception]
            try:
                answers = await loop.run_in_executor(self._networks, self._answers, [pixels for pixels, _ in batch])
            except Exception as error:  # reported to each of these clients; later ones are still answered
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
    """JSON in ASCII, since a class may be named after a folder with undecodable bytes."""
    fields = found._asdict()
    del fields["path"]
    fields["opinions"] = [opinion._asdict() for opinion in found.opinions]
    for key, usual in (("calibrated", True), ("seems_inverted", False)):
        if fields[key] is usual:
            del fields[key]
    return json.dumps(fields)
